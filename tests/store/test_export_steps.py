"""Generated tokens as JSON lines: from a collected run and from rows that the test knows, and back in."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_steps import exported, imported, saved
from typer.testing import CliRunner

import tracelake
from tracelake.cli import app
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.exchange.tsif.export import step_lines
from tracelake.lake.lake import Lake

FIELDS = [
    "type", "run_id", "model_name", "prompt_id", "prompt_text", "bucket", "t", "token", "token_id", "logprob",
    "surprisal", "cos_to_prev", "cos_to_prompt", "cum_text",
]  # fmt: skip
DIM = 6


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the bundled model: sampled, and greedy."""
    lake = tmp_path_factory.mktemp("export") / "lake"
    options = {"dataset": "tinymath:test", "limit": 3, "max_new_tokens": 12, "keep": ["tokens"]}
    tracelake.collect(lake, **options, samples=2, tag="sampled")
    tracelake.collect(lake, **options, tag="greedy")
    return lake


@pytest.mark.parametrize("run", ["sampled", "greedy"])
def test_records_of_a_collected_run(collected: Path, run: str) -> None:
    lake = tracelake.open(collected)
    run_id = lake.resolve_run(run)
    tokens = lake.sql(
        "SELECT * FROM token_steps JOIN sequences USING (run_id, sequence_id) "
        "WHERE run_id = $1 AND step IS NOT NULL ORDER BY sequence_id, position",
        [run_id],
    )
    found = exported(collected, run)
    assert len(found) == tokens.height > 20
    for record, row in zip(found, tokens.iter_rows(named=True), strict=True):
        assert list(record) == FIELDS
        assert (record["run_id"], record["model_name"], record["t"]) == (run_id, "tinymath", row["step"] + 1)
        assert (record["token"], record["token_id"]) == (row["token"], row["token_id"])
        assert (record["prompt_id"], record["prompt_text"], record["bucket"]) == (row["item_id"], row["prompt"], None)
        logprob = row["sampling_logprob"] if run == "sampled" else row["logprob"]
        assert record["logprob"] == logprob and record["surprisal"] == -logprob
        assert record["cum_text"] == (row["rendered_prompt"] or row["prompt"]) + row["completion"][: row["char_end"]]
        assert record["cos_to_prev"] is None and record["cos_to_prompt"] is None


def test_out_and_in_again(collected: Path, tmp_path: Path) -> None:
    """The numbers of an exported run that is imported are those of the run."""
    found = exported(collected, "sampled")
    imported(tmp_path / "lake", saved(tmp_path / "records.jsonl", found))
    columns = "sequence_id, step, token, token_id, char_end, sampling_logprob"
    query = f"SELECT {columns} FROM token_steps WHERE step IS NOT NULL {{}} ORDER BY ALL"
    run_id = tracelake.open(collected).resolve_run("sampled")
    before = tracelake.open(collected).sql(query.format(f"AND run_id = '{run_id}'"))
    after = tracelake.open(tmp_path / "lake").sql(query.format(""))
    assert before.equals(after)
    assert exported(tmp_path / "lake", "latest") == found


def embedded(path: Path, *, embedders: tuple[str, ...] = ("e",), sequences: int = 3, steps: int = 5) -> np.ndarray:
    """A run with step embeddings [sequences, steps + 1, DIM], the prompt's own first; returns them."""
    vectors = np.random.default_rng(0).normal(size=(sequences, steps + 1, DIM)).astype(np.float32)
    lake = Lake.create(path)
    with lake.start_run("embedded-01", {"kind": "generate", "model": {"name": "m"}}) as writer:
        with writer.segment(0, (0, sequences)) as segment:
            ids = np.arange(sequences, dtype=np.int64)
            texts = {"prompt": ["p"] * sequences, "completion": ["x" * steps] * sequences}
            segment.append(
                "sequences", {"sequence_id": ids, "item_id": [str(i) for i in ids], "n_prompt_tokens": 4, **texts}
            )
            key = {
                "sequence_id": np.repeat(ids, steps),
                "position": np.tile(np.arange(4, 4 + steps, dtype=np.int32), sequences),
            }
            step = np.tile(np.arange(steps, dtype=np.int32), sequences)
            likelihood = np.full(sequences * steps, -1.0, np.float32)
            likelihood[0] = np.nan  # no such value is written by collection; an export must not choke on it
            segment.append(
                "token_steps",
                {
                    **key,
                    "stack": "decoder",
                    "step": step,
                    "token_id": 1,
                    "token": "x",
                    "char_end": step + 1,
                    "logprob": likelihood,
                },
            )
            for name in embedders:
                segment.append_vectors(
                    "step_embeddings",
                    columns={**key, "embedder": name, "scope": "prompt+completion"},
                    vectors=vectors[:, 1:].reshape(-1, DIM),
                    dtype="float32",
                )
                segment.append_vectors(
                    "step_embeddings",
                    columns={"sequence_id": ids, "position": 3, "embedder": name, "scope": "prompt"},
                    vectors=np.ascontiguousarray(vectors[:, 0]),
                    dtype="float32",
                )
        writer.finish()
    return vectors


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(float), other.astype(float)
    return float(one @ other / math.sqrt((one @ one) * (other @ other)))


def test_cosines_are_those_of_the_stored_embeddings(tmp_path: Path) -> None:
    vectors = embedded(tmp_path / "lake")
    found = exported(tmp_path / "lake", "latest")
    for place, record in enumerate(found):
        sequence, step = divmod(place, 5)
        mine = vectors[sequence, step + 1]
        assert record["cos_to_prompt"] == pytest.approx(cosine(mine, vectors[sequence, 0]), abs=1e-9)
        if step:
            assert record["cos_to_prev"] == pytest.approx(cosine(mine, vectors[sequence, step]), abs=1e-9)
        else:
            assert record["cos_to_prev"] is None
    assert found[0]["logprob"] is None and found[1]["logprob"] == -1.0


def test_several_embedders_must_be_chosen_from(tmp_path: Path) -> None:
    embedded(tmp_path / "lake", embedders=("first", "second"))
    with pytest.raises(UsageError, match="first, second: choose with --embedder"):
        exported_with(tmp_path / "lake")
    with pytest.raises(NotFoundError, match="no step embeddings of 'third'"):
        exported_with(tmp_path / "lake", embedder="third")
    assert len(exported_with(tmp_path / "lake", embedder="second")) == 15


def exported_with(lake: Path, **options: Any) -> list[str]:
    return list(step_lines(Lake.open(lake), "embedded-01", **options))


def test_file_is_replaced_whole_or_not_at_all(collected: Path, tmp_path: Path) -> None:
    target = tmp_path / "steps.jsonl"
    target.write_text("before")
    command = ["export", "steps-jsonl", "greedy", "--lake", str(collected), "-o", str(target)]
    done = CliRunner().invoke(app, [*command, "--json"])
    lines = target.read_text(encoding="utf-8").splitlines()
    assert json.loads(done.stdout) == {"file": str(target), "records": len(lines)}
    assert [json.loads(line) for line in lines] == exported(collected, "greedy")
    command[2] = "no-such-run"
    assert isinstance(CliRunner().invoke(app, command).exception, NotFoundError)
    assert len(target.read_text(encoding="utf-8").splitlines()) == len(lines)
    assert [path.name for path in tmp_path.iterdir()] == ["steps.jsonl"]
    command[2], command[-1] = "greedy", str(tmp_path / "no" / "folder.jsonl")
    failed = CliRunner().invoke(app, command)
    assert "cannot be written" in str(failed.exception)


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    peaks = []
    for sequences in (128, 1024):
        path = tmp_path / str(sequences)
        embedded(path, sequences=sequences)
        tracemalloc.start()
        n_lines = sum(1 for _ in step_lines(Lake.open(path), "embedded-01"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert n_lines == sequences * 5
    assert peaks[1] < 1.5 * peaks[0], peaks
