"""Blobs: files of a commit that are no tables live under the same promises as tables do."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from tracelake.lake import Lake
from tracelake.lake.analyses import commit_analysis
from tracelake.lake.derived import Analysis
from tracelake.lake.errors import DamageError, NotFoundError, UsageError

RUN = "sae-run"
WEIGHTS = {"W_enc": np.arange(12, dtype=np.float32).reshape(3, 4), "b_enc": np.ones(4, np.float16)}


def array_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run(RUN, {"kind": "sae", "plan": {"segments": [[0, 1], [1, 2]]}}) as run:
        for index in range(2):
            with run.segment(index, (index, index + 1)) as segment:
                segment.add_blob("cfg.json", json.dumps({"step": index}).encode())
                with segment.blob("sae_weights.safetensors") as file:
                    data = save({name: array + index for name, array in WEIGHTS.items()})
                    for start in range(0, len(data), 100):
                        file.write(data[start : start + 100])
                segment.add_blob("losses.npy", array_bytes(np.full(5, index)))
        run.finish()
    return lake


def test_a_blob_is_committed_verified_and_removed(lake: Lake) -> None:
    assert lake.runs()[0]["kind"] == "sae" and lake.run_status(RUN) == "complete"
    stored = load(lake.blob(RUN, "sae_weights.safetensors"))
    assert all(np.array_equal(stored[name], array + 1) for name, array in WEIGHTS.items()), "the latest checkpoint"
    assert json.loads(lake.blob("latest", "cfg.json")) == {"step": 1}
    for level in ("quick", "full", "deep"):
        report = lake.verify(level)
        assert report.ok and report.files == 6 and report.notes == []
    folders = {path.parent for path in lake.path.glob("data/blobs/**/*.safetensors")}
    assert len(folders) == 2 and all((folder / "cfg.json").exists() for folder in folders), "each is a folder as it is"
    assert not list(lake.path.rglob("*.parquet")) and lake.vacuum(0).files == 0
    lake.remove(RUN, dry_run=False, now=True)
    assert not [path for path in lake.path.rglob("*") if path.suffix in (".safetensors", ".npy")]
    assert lake.verify("deep").ok


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors", "losses.npy"])
def test_damage_to_a_blob_is_found(lake: Lake, name: str) -> None:
    path = sorted(lake.path.glob(f"data/blobs/**/{name}"))[-1]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert [problem.path for problem in lake.verify("full").problems] == [path.relative_to(lake.path).as_posix()]
    with pytest.raises(DamageError, match=name):
        lake.blob(RUN, name)
    path.write_bytes(data[:-1])
    assert not lake.verify("quick").ok
    path.unlink()
    assert not lake.verify("quick").ok


def test_a_failed_commit_leaves_no_blob(lake: Lake) -> None:
    with lake.start_run("failing", {}) as run:
        with pytest.raises(KeyError), run.segment(0, (0, 1)) as segment:
            segment.add_blob("cfg.json", b"{}")
            raise KeyError("the training broke")
        with run.segment(0, (0, 1)) as segment:
            segment.add_blob("cfg.json", b"{}")
            with pytest.raises(UsageError, match="already"):
                segment.add_blob("cfg.json", b"{}")
    assert not list(lake.path.rglob("*.part")) and len(list(lake.path.glob("data/blobs/run=failing/*/*"))) == 1


@pytest.mark.parametrize("name", ["model.pt", "../cfg.json", "cfg", "a/b/c.json", ".json", "x.pkl", "cfg.json\n"])
def test_bad_names_and_unknown_blobs(lake: Lake, name: str) -> None:
    with (
        lake.start_run("naming", {}) as run,
        run.segment(0, (0, 1)) as segment,
        pytest.raises(UsageError, match="blob"),
    ):
        segment.add_blob(name, b"")
    with pytest.raises(NotFoundError, match=r"cfg\.json"):
        lake.blob(RUN, "cgf.json")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.json", b"{", "no JSON"),
        ("x.npy", b"\x93NUMPY", "no array"),
        ("x.safetensors", b"\xff" * 20, "header is longer"),
        ("y.safetensors", b"\x02" + b"\0" * 7 + b"{}12", "do not fill"),
    ],
)
def test_deep_looks_inside(lake: Lake, name: str, data: bytes, words: str) -> None:
    with lake.start_run("inside", {}) as run, run.segment(0, (0, 1)) as segment:
        segment.add_blob(name, data)
    assert lake.verify("full").ok
    [problem] = lake.verify("deep").problems
    assert words in problem.message


def test_a_pickled_array_is_named(lake: Lake) -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object))
    with lake.start_run("pickled", {}) as run, run.segment(0, (0, 1)) as segment:
        segment.add_blob("x.npy", file.getvalue())
    [problem] = lake.verify("deep").problems
    assert "pickled" in problem.message


def test_blobs_of_analyses_leave_with_them(lake: Lake) -> None:
    analysis = Analysis(RUN, "trajectory", {}, "0" * 16)
    row = {"analysis_id": analysis.analysis_id, "name": "trajectory", "parameters": "{}", "snapshot": "0"}
    for _ in range(2):
        commit_analysis(lake, analysis, {"analyses": row}, blobs={"plane.npy": array_bytes(np.zeros((2, 2)))})
    assert np.load(io.BytesIO(lake.blob(RUN, "plane.npy"))).shape == (2, 2)
    assert lake.vacuum(0, dry_run=False).files == 2 and lake.verify("deep").ok
