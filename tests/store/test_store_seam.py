"""The seam: a lake that exists in memory only is collected, asked, verified, exported, imported, removed and swept."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
from corevital_reports import report, truth
from memory_store import MemoryStore

import tracelake
from tracelake.analysis.paths.trajectory import Trajectory
from tracelake.analysis.question import ask
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.lake.analyses import remove_analysis
from tracelake.lake.errors import DamageError, LockedError
from tracelake.lake.exchange.corevital.imports import ImportSettings, check_reports, import_reports
from tracelake.lake.exchange.tsif.export import step_lines
from tracelake.lake.exchange.vector_files import export_vectors
from tracelake.queries.saved_query import saved_queries

SOURCES = Path(tracelake.__file__).parent / "lake"
TOUCHES_DISKS = {
    "output/files.py",
    "reading/checked_files.py",
    "sql/read_only_files.py",
    "storage/disk.py",
    "storage/local.py",
}
"""The local store; what was checked (remembered in the user's cache folder, over descriptors of the store); and outputs
of the user. exchange/ also reads and writes the user's own files."""


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStore, str]:
    store = MemoryStore(tmp_path_factory.mktemp("spool"))
    lake = Lake.create(store.path, store=store)
    config = CollectConfig(
        prompt=["What is 12 + 7?", "Tom has 3 apples."], max_new_tokens=4, tag="memory", segment_items=1,
        keep=("tokens,layers,heads,activations:resid_post",),
    )  # fmt: skip
    return store, Collection(config).start(lake).run_id


@pytest.fixture
def lake(collected: tuple[MemoryStore, str], tmp_path: Path) -> Lake:
    store = MemoryStore(tmp_path / "spool")
    store.files = dict(collected[0].files)
    return Lake.open(store.path, store=store)


def test_asked_and_verified(lake: Lake) -> None:
    [row] = lake.runs()
    assert (row["status"], row["n_sequences"]) == ("complete", 2)
    counted = lake.sql("select count(*) as n, sum(surprisal_bits) as bits from token_steps").row(0)
    scanned = lake.scan("token_steps").collect()
    assert counted == (scanned.height, pytest.approx(float(scanned["surprisal_bits"].sum()), rel=1e-6))
    norm = lake.sql("select l2_norm from layer_summaries where layer = 2 and site = 'resid_post' order by all")
    states = np.concatenate([matrix for _, matrix in lake.vectors(2, "resid_post")])
    assert np.allclose(np.sort(np.linalg.norm(states, axis=1)), norm["l2_norm"].to_numpy(), rtol=1e-4)
    assert lake.verify("deep").ok and lake.verify("deep").files > 10
    assert not lake.path.exists()


def test_analysed_and_exported(lake: Lake, tmp_path: Path) -> None:
    options = Trajectory(site="resid_post", layer=1, umap="none")
    first, again = (ask(lake, "latest", options) for _ in range(2))
    assert first.computed and not again.computed and lake.analyses("latest")
    done = export_vectors(lake, "latest", layer=1, site="resid_post", form="npy", target=tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").shape == (done.rows, 128)
    assert len([json.loads(line) for line in step_lines(lake, lake.resolve_run("latest"))]) > 0
    assert remove_analysis(lake, first.analysis_id, dry_run=False, now=True).files == 3
    assert not lake.analyses() and lake.verify("deep").ok


def test_removed_and_swept(lake: Lake) -> None:
    run_id = lake.resolve_run("latest")
    store = lake.store
    assert isinstance(store, MemoryStore)
    with lake.resume_run(run_id), pytest.raises(LockedError):
        lake.remove(run_id, dry_run=False)
    lake.remove(run_id, dry_run=False)
    assert not store.names("data") and store.names("_trash") and lake.runs()[0]["status"] == "removed"
    assert lake.sql("select count(*) from token_steps").item() == 0
    lake.vacuum(0, dry_run=False)
    assert not store.names("_trash") and store.names(f"_runs/{run_id}") == ["tombstone.json"]


def test_imported(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report(truth(1), "0.5")), encoding="utf-8")
    [run] = import_reports(lake, check_reports([path], ImportSettings()), ImportSettings())
    assert lake.run_status(run.run_id) == "complete" and lake.verify("deep").ok


def test_damage_is_found(lake: Lake) -> None:
    store = lake.store
    assert isinstance(store, MemoryStore)
    name = next(name for name in store.files if name.startswith("data/token_steps"))
    data, written = store.files[name]
    store.files[name] = (data[:100] + b"?" + data[101:], written)
    assert [problem.path for problem in lake.verify("full").problems] == [name]
    del store.files[name]
    with pytest.raises(DamageError, match="is missing"):
        lake.sql("from token_steps")


def test_nothing_in_the_store_touches_a_disk_but_its_own_files() -> None:
    """No other file of the store opens, lists, links or deletes anything: it has no other way than the seam."""
    verbs = (
        "read_bytes|read_text|write_bytes|write_text|unlink|mkdir|rmdir|iterdir|glob|rglob|l?stat|is_file|is_dir|touch"
    )
    system = re.compile(rf"^(os\.|shutil\.|pathlib\.|open$|Path\.(cwd|home))|\.({verbs})$")
    harmless = {"os.environ.get", "os.strerror", "os.cpu_count", "os.sched_getaffinity", "os.path.join", "os.getpid"}
    touching = [
        f"{path.name}, line {node.lineno}: {called}"
        for path in sorted(SOURCES.rglob("*.py"))
        if path.relative_to(SOURCES).as_posix() not in TOUCHES_DISKS and "exchange" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and system.search(called := ast.unparse(node.func)) and called not in harmless
    ]
    assert not touching


def test_saved_queries_of_the_lake(lake: Lake) -> None:
    store = lake.store
    assert isinstance(store, MemoryStore)
    written = next(iter(store.files.values()))[1]
    store.files["queries/tokens_seen.sql"] = (b"-- How many.\r\nSELECT count(*) AS n FROM token_steps\r\n", written)
    store.files["queries/torn.sql"] = (b"-- \xff\nSELECT 1\n", written)
    opened = tracelake.OpenLake.open(store.path, store=store)
    assert opened.query("tokens_seen").item() == opened.sql("select count(*) from token_steps").item() > 0
    broken: list[str] = []
    assert saved_queries(opened, on_broken=lambda error: broken.append(str(error)))["tokens_seen"].source == "lake"
    assert len(broken) == 1 and "torn.sql: not UTF-8" in broken[0]
    assert not store.path.exists()
