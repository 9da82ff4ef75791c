"""A user's file over the Python API, as mypy and basedpyright see it: every method is typed, and mistakes are found."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

import tracelake
from tracelake.analysis.question import QUESTIONS
from tracelake.cli import app

ROOT = Path(tracelake.__file__).resolve().parent
EXPERIMENTS = ("variance", "oracle", "sensitivity", "attribution", "clusters", "steering", "all", "correctness")
METHODS = {
    "collect": "collect", "runs": "runs", "verify": "verify", "rm": "remove", "vacuum": "vacuum", "show": "describe",
    "sql": "sql", "query": "query", "chart": "chart", "report": "report", "dashboard": "dashboard",
    "metrics": "metrics", "analyze list": "analyses", "analyze rm": "remove_analysis", "analyze embed": "embed",
    "analyze judge": "judge", "analyze lens": "lens", "analyze attribution": "attribution", "analyze grade": "grade",
    "analyze labels": "label", "experiment second-order": "second_order", "experiment neurons": "rank_neurons",
    "experiment ablation": "ablate", "analyze direction-tokens": "direction_tokens", "analyze neuron-pca": "neuron_pca",
    "analyze neuron-words": "neuron_words", "analyze neuron-ablation": "neuron_ablation",
    "sae train": "train_saes", "sae list": "sae", "sae rm": "remove", "sae eval": "evaluate_sae",
    "sae compare": "compare_saes", "sae features": "sae_features", "sae import": "import_sae",
    "sae export": "export_sae", "export correctness": "export_correctness",
    "export saelens-cache": "export_saelens_cache", "import logprobs": "import_logprobs",
    "import inspect": "import_inspect", "sae run": "run_saes", "sae label": "label_features",
    "import corevital": "import_corevital", "import tsif": "import_tsif", "import labels": "import_labels",
    "export steps-jsonl": "export_steps", "export vectors": "export_vectors",
} | {f"experiment {name}": "experiment" for name in EXPERIMENTS}  # fmt: skip
"""Verbs of the command line and the method that does the same."""
NOT_OF_A_LAKE = {"demo"}

RIGHT = """
from collections.abc import Iterator
from typing import assert_type

import altair
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import tracelake
from tracelake import DamageError, LakeError, OpenLake

collected = tracelake.collect("lakehouse", model="tinymath", prompt=["Hi"], max_new_tokens=4, keep=["tokens"])
assert_type(collected.run_id, str)
lake = tracelake.open("lakehouse")
assert_type(lake, OpenLake)
assert_type(lake.collect(prompt="Hi", progress=False).n_tokens, int)
assert_type(lake.sql("select 1", run="latest"), pl.DataFrame)
assert_type(lake.query("run_overview", run="latest"), pl.DataFrame)
assert_type(lake.chart("surprisal_trace", run="latest", width=300), altair.Chart)
assert_type(lake.scan("token_steps", run="latest"), pl.LazyFrame)
with lake.connect(locked=True) as connection:
    assert_type(connection.arrow("select 1"), pa.Table)
    assert_type(connection.duckdb, duckdb.DuckDBPyConnection)
assert_type(lake.vectors(-1, "resid_post"), Iterator[tuple[pa.Table, np.ndarray]])
assert_type(lake.vectors(-1, "resid_post", where="last").rows, pl.DataFrame)
assert_type(lake.runs.frame, pl.DataFrame)
assert_type(lake["latest"].tokens, pl.DataFrame)
assert_type(lake.report("latest", "page.html", sequences=[3]).n_bytes, int)
assert_type(lake.analyze("trajectory", ["first"], site="resid_post").analysis_id, str)
assert_type(lake.draw_figures("figures").n_figures, int)
assert_type(lake.remove_analysis("trajectory-0123456789ab").files, int)
assert_type(lake.embed(scopes=["completion"]).n_embedded, int)
assert_type(lake.judge(judge="known", pairs="all").n_distinct, int)
assert_type(lake.export_vectors("last.npy", -1, where="last", join=["correct"]).rows, int)
assert_type(lake.export_steps("steps.jsonl"), int)
assert_type(lake.import_corevital(["report.json"])[0].run_id, str)
assert_type(lake.import_labels("labels.csv").n_labels, int)
assert_type(lake.verify("deep").ok, bool)
assert_type(lake.remove("first").files, int)
assert_type(lake.vacuum(dry_run=False).bytes, int)
assert_type(lake.metrics().run_id, str)
try:
    lake.sql("select")
except DamageError:
    raise
except LakeError as error:
    assert_type(error.exit_code, int)
"""
WRONG = """
import tracelake

lake = tracelake.open("lakehouse")
lake.sql(3)
lake.exprot_vectors("last.npy", -1)
lake.vectors(layer="last", site="resid_post")
tracelake.collect("lakehouse", modell="gpt2")
lake.connect(lock=True)
lake.report().n_byte
lake.verify().ok + "x"
"""


def test_every_verb_has_its_method() -> None:
    command = typer.main.get_command(app)
    verbs = set()
    for name, verb in command.commands.items():  # type: ignore[attr-defined]
        inner = getattr(verb, "commands", None)
        verbs |= {name} if inner is None else {f"{name} {one}" for one in inner}
    assert verbs - NOT_OF_A_LAKE == set(METHODS)
    assert all(hasattr(tracelake.OpenLake, method) for method in (*METHODS.values(), "analyze")) and QUESTIONS


def test_every_method_is_shown_in_the_docs() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    missing = [name for name in {*METHODS.values(), "analyze"} if not re.search(rf"\.{name}\b", page)]
    assert not missing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project: two files, and the package as it is installed."""
    folder = tmp_path_factory.mktemp("typing")
    (folder / "site").mkdir()
    (folder / "site" / "tracelake").symlink_to(ROOT)
    (folder / "right.py").write_text(RIGHT, encoding="utf-8")
    (folder / "wrong.py").write_text(WRONG, encoding="utf-8")
    heavy = "[mypy-torch.*,transformers.*,sklearn.*,scipy.*,umap.*,sentence_transformers.*,streamlit.*]"
    (folder / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nmypy_path = {folder / 'site'}\nfollow_imports = silent\n{heavy}\n"
        "follow_imports = skip\nignore_missing_imports = True\n[mypy-pyarrow.*]\nignore_missing_imports = True\n"
    )
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"include": ["right.py", "wrong.py"], "extraPaths": ["site"], "typeCheckingMode": "standard"})
    )
    return folder


def _lines(command: Sequence[str], folder: Path) -> dict[str, set[int]]:
    """Lines of each file that a checker finds wrong."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=1200)
    found: dict[str, set[int]] = {"right": set(), "wrong": set()}
    for name, line in re.findall(r"\b(right|wrong)\.py:(\d+)(?::\d+)?(?:-\d+:\d+)?:? (?:- )?error", done.stdout):
        found[name].add(int(line))
    assert done.returncode == 1 and found["wrong"], done.stdout + done.stderr
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            ["mypy", "right.py", "wrong.py"],
            marks=pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed"),
        ),
        ["basedpyright", "--pythonpath", sys.executable],
    ],
    ids=["mypy", "basedpyright"],
)
def test_a_users_file_type_checks(command: list[str], folder: Path) -> None:
    found = _lines(command, folder)
    assert not found["right"]
    assert found["wrong"] == set(range(5, 12))
