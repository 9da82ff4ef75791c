"""Lakes from others: run.json and records of wrong types, sealed and chained as if they were right.

For every field of both, every wrong kind of value: the run is refused by name, or read as if the field were harmless;
nothing ends in another error than ours, and the other run stays readable.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracelake import OpenLake
from tracelake.lake import Lake
from tracelake.lake.analyses import commit_analysis
from tracelake.lake.derived import Analysis
from tracelake.lake.errors import LakeError
from tracelake.lake.records.commits import sealed, unsealed

RUN, OTHER = "hostile-run", "other-run"
DEEP: Any = []
for _ in range(500):
    DEEP = [DEEP]
WRONG: tuple[Any, ...] = (
    *(None, True, 3, -1, 10**30, 1.5, "", "0", "\ud800", "../../etc"),
    *([], [None], ["0"], [[1]], {}, {"x": "\ud800"}, {"segments": 3}, {"segments": [[0]]}, DEEP),
    {"name": 3, "n_layers": "many"},
)
MODEL = {"name": "m", "n_layers": 2, "d_model": 8, "is_encoder_decoder": False}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = Lake.create(tmp_path_factory.mktemp("hostile") / "lake")
    for run_id in (OTHER, RUN):
        about = {"kind": "import", "tag": "t", "seed": 3, "model": MODEL, "config": {"samples": 1}}
        about |= {"versions": {"a": "1"}, "plan": {"segments": [[0, 1]]}}
        about |= {"source": {"format": "tsif", "records": [{"id": "x", "file": "f"}]}}
        with lake.start_run(run_id, about) as run:
            with run.segment(0, (0, 1)) as segment:
                segment.append("sequences", {"sequence_id": [0], "prompt": "p"})
                tokens = {"sequence_id": 0, "position": np.arange(4, dtype=np.int32), "stack": "decoder"}
                segment.append("token_steps", tokens)
                segment.add_blob("cfg.json", b"{}")
            run.finish()
    analysis = Analysis(RUN, "trajectory", {"x": 1}, "0" * 16)
    row = {"analysis_id": analysis.analysis_id, "name": "trajectory", "parameters": "{}", "snapshot": "0"}
    commit_analysis(lake, analysis, {"analyses": row})
    return lake.path


def places(body: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a JSON object."""
    pairs = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in pairs:
        yield (*above, key)
        yield from places(value, (*above, key))


def changed(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(body))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


def rewritten(root: Path, bodies: dict[str, Any]) -> None:
    """Write run.json and all records again so that seals, chains, heads and ends agree."""
    import hashlib

    folder = root / "_runs" / RUN
    data = json.dumps(bodies["run.json"]).encode()
    (folder / "run.json").write_bytes(data)
    digests = {"": hashlib.sha256(data).hexdigest()}
    shutil.rmtree(folder / "ends", ignore_errors=True)
    last: dict[str, str] = {}
    for name in sorted((n for n in bodies if n != "run.json"), key=lambda n: (n.startswith("derived"), n)):
        body, writer = bodies[name], name.split("-")[0]
        if isinstance(body, dict):
            body["previous"] = body.get("previous") and digests.get(last.get(writer, ""), digests[""])
            if writer == "derived" and isinstance(body.get("heads"), dict) and "w0" in body["heads"]:
                with contextlib.suppress(TypeError, LookupError):
                    body["heads"]["w0"][1] = digests[last["w0"]] if body["heads"]["w0"][1] else body["heads"]["w0"][1]
        text_ = json.dumps(body, separators=(",", ":")).encode()
        digests[name] = hashlib.sha256(text_).hexdigest()
        (folder / "commits" / name).write_bytes(b'{"sha256":"' + digests[name].encode() + b'","body":' + text_ + b"}\n")
        last[writer] = name


READS: dict[str, Callable[[OpenLake], object]] = {
    "runs": lambda lake: lake.runs(),
    "sql": lambda lake: lake.sql("select count(*), min(run_id), max(config) from runs, token_steps"),
    "scan": lambda lake: lake.scan("token_steps").collect(),
    "analyses": lambda lake: lake.analyses(),
    "run_json": lambda lake: lake.run_json(RUN),
    "status": lambda lake: lake.run_status(RUN),
    "one run": lambda lake: lake.connect(run=RUN).close(),
    "latest": lambda lake: lake.resolve_run("latest"),
    "blob": lambda lake: lake.blob(RUN, "cfg.json"),
    "verify": lambda lake: lake.verify("deep"),
    "vacuum": lambda lake: lake.vacuum(0),
    "rm": lambda lake: lake.remove(RUN),
}


def bodies_of(root: Path) -> dict[str, Any]:
    folder = root / "_runs" / RUN
    bodies: dict[str, Any] = {"run.json": json.loads((folder / "run.json").read_text())}
    for path in (folder / "commits").iterdir():
        bodies[path.name] = unsealed(path.read_bytes(), path.name)[0]
    return bodies


def hostile(root: Path, name: str, step: int, offset: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of one file with every wrong value; `step` thins them out."""
    bodies = bodies_of(root)
    cases = [(place, value) for place in places(bodies[name]) for value in WRONG]
    for place, value in cases[offset::step]:
        yield (
            f"{name}: {'.'.join(map(str, place))} = {str(value)[:30]!r}",
            bodies | {name: changed(bodies[name], place, value)},
        )


def attack(root: Path, step: int) -> int:
    refused = 0
    for offset, name in enumerate(sorted(bodies_of(root))):
        for what, bodies in hostile(root, name, step, offset % step):
            rewritten(root, bodies)
            for verb, read in READS.items():
                try:
                    read(OpenLake.open(root))
                except LakeError:
                    refused += 1
                except Exception as error:
                    raise AssertionError(f"{what}: {verb} ends in {error!r}") from error
            counts = OpenLake.open(root).sql("select run_id, count(*) from token_steps group by all").rows()
            assert dict(counts)[OTHER] == 4, what
    return refused


def test_the_rewriting_itself_does_no_harm(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "lake")
    rewritten(tmp_path / "lake", bodies_of(tmp_path / "lake"))
    lake = OpenLake.open(tmp_path / "lake")
    assert lake.verify("deep").ok and len(lake.runs()) == 2 and len(lake.analyses()) == 1


def test_a_sample_of_wrong_values(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "lake")
    assert attack(tmp_path / "lake", 97) > 0


@pytest.mark.slow
def test_every_wrong_value_in_every_field(sound: Path, tmp_path: Path, record_property) -> None:
    shutil.copytree(sound, tmp_path / "lake")
    bodies = bodies_of(tmp_path / "lake")
    record_property("lakes", sum(len(list(places(body))) for body in bodies.values()) * len(WRONG))
    refused = attack(tmp_path / "lake", 1)
    record_property("refused reads", refused)
    assert refused > 1000


@pytest.mark.parametrize("data", [b"", b"[]", b"3", b"[" * 100_000, b'{"created_at": NaN}', b"\xff\xfe", b"1" * 5000])
def test_what_is_no_description(sound: Path, tmp_path: Path, data: bytes) -> None:
    shutil.copytree(sound, tmp_path / "lake")
    (tmp_path / "lake" / "_runs" / RUN / "run.json").write_bytes(data)
    lake = Lake.open(tmp_path / "lake")
    with pytest.raises(LakeError, match=RUN):
        lake.snapshot(RUN)
    assert [row["run_id"] for row in lake.runs()] == [OTHER] and not lake.verify("quick").ok
    path = lake.path / "_runs" / OTHER / "commits" / "w0-000000.json"
    path.write_bytes(sealed({"files": 3})[0])
    with pytest.raises(LakeError):
        lake.runs()
