"""Files of new runs carry BLAKE3, those of runs begun by an earlier version SHA-256, and both are checked."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from tracelake.lake import Lake
from tracelake.lake.errors import DamageError, NewerFormatError
from tracelake.lake.records.checksum import Checksum, algorithm_of, named_checksum
from tracelake.lake.records.commits import unsealed

ALGORITHMS = {"sha256": lambda data: hashlib.sha256(data).hexdigest(), "blake3": lambda data: blake3(data).hexdigest()}
PUBLISHED = {
    "blake3": "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
    "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
}
"""Of "abc"."""


def begin(lake: Lake, run_id: str, format_version: int) -> None:
    """A run of two files in a segment that is left open for more, with a blob."""
    with lake.start_run(run_id, {"format_version": format_version}) as run:
        write(run, 0)


def write(run, index: int) -> None:
    rng = np.random.default_rng(index)
    with run.segment(index, (index, index + 1)) as segment:
        n_rows = 2_000
        place = np.arange(n_rows, dtype=np.int32)
        rows = {"sequence_id": np.full(n_rows, index), "position": place, "stack": "decoder"}
        for layer in (0, 1):
            vectors = rng.standard_normal((n_rows, 256)).astype(np.float32)  # 2 MB: several pieces
            segment.append_vectors(
                "activations", columns=rows, vectors=vectors, dtype="float32", layer=layer, site="resid_post"
            )
        segment.add_blob("note.json", json.dumps({"index": index}).encode())


def entries(lake: Lake, run_id: str) -> list[dict]:
    """Everything that the run's records name, as they name it."""
    files = sorted((lake.path / "_runs" / run_id / "commits").iterdir())
    bodies = [unsealed(file.read_bytes(), "record")[0] for file in files]
    return [entry for body in bodies for entry in (*body["files"], *body.get("blobs", []))]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_digests_are_those_of_the_algorithm(algorithm: str) -> None:
    assert Checksum(algorithm, "").of_bytes(b"abc").digest == PUBLISHED[algorithm]
    for n_bytes in (0, 1, 1 << 20, (1 << 20) + 1, 3_000_000):
        data = np.random.default_rng(0).bytes(n_bytes)
        wanted = Checksum(algorithm, ALGORITHMS[algorithm](data))
        assert wanted.of_file(io.BytesIO(data)) == wanted.of_bytes(data) == wanted


@pytest.mark.parametrize(("format_version", "algorithm"), [(1, "sha256"), (2, "blake3")])
def test_a_run_keeps_the_algorithm_that_it_began_with(tmp_path: Path, format_version: int, algorithm: str) -> None:
    lake = Lake.create(tmp_path / "lake")
    begin(lake, "run-one", format_version)
    with lake.resume_run("run-one") as run:
        write(run, 1)
        run.finish()
    named = entries(lake, "run-one")
    assert len(named) == 6 and {name for entry in named for name in ALGORITHMS if name in entry} == {algorithm}
    for entry in named:
        assert entry[algorithm] == ALGORITHMS[algorithm]((lake.path / entry["path"]).read_bytes())
    assert algorithm_of(format_version) == algorithm and lake.verify("deep").ok


def test_runs_of_both_formats_in_one_lake_are_read_and_their_damage_is_named(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    for run_id, version in (("run-old", 1), ("run-new", 2)):
        begin(lake, run_id, version)
    assert lake.sql("select count(*) from activations").item() == 8_000
    for run_id, title in (("run-old", "SHA-256"), ("run-new", "BLAKE3")):
        path = lake.path / entries(lake, run_id)[0]["path"]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        [problem] = lake.verify("full", run=run_id).problems
        assert problem.kind == "checksum" and f"has {title} " in problem.message
        with pytest.raises(DamageError, match=f"its {title} is another"):
            lake.scan("activations", run_id).collect()


def test_a_version_that_knows_only_the_first_format_refuses_the_second_by_name(tmp_path: Path, monkeypatch) -> None:
    lake = Lake.create(tmp_path / "lake")
    begin(lake, "run-new", 2)
    monkeypatch.setattr("tracelake.lake.records.run_json.FORMAT_VERSION", 1)
    with pytest.raises(NewerFormatError, match="format 2"):
        Lake(lake.path).snapshot("run-new")


@pytest.mark.parametrize("entry", [{}, {"sha3": "0" * 64}, {"blake3": 7}, {"sha256": None}])
def test_an_entry_without_a_checksum_of_ours_is_none(entry: dict) -> None:
    with pytest.raises((KeyError, TypeError)):
        named_checksum(entry)
