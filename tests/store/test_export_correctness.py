"""The arrays of the second-order project, loaded in plain numpy, against a plain pass of the model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import tracelake
from tracelake.collect.tinymath import WEIGHTS
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, NotFoundError, UsageError
from tracelake.lake.exchange.correctness_files import export_correctness

SETTINGS: dict[str, Any] = {
    "dataset": "tinymath:test", "limit": 12, "max_new_tokens": 60, "prompt_template": "question_answer",
    "chat": "off", "temperature": 1.3, "seed": 3, "keep": ["tokens", "activations:final_norm"],
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, str]:
    path = tmp_path_factory.mktemp("graded") / "lake"
    run_id = tracelake.collect(path, **SETTINGS).run_id
    return Lake.open(path), run_id


@torch.inference_mode()
def test_every_file_is_that_of_a_plain_pass(run: tuple[Lake, str], tmp_path: Path) -> None:
    lake, run_id = run
    done = export_correctness(lake, run_id, tmp_path / "out", max_length=80)
    assert done.prefix == "tinymath_test_tinymath"
    rows = lake.scan("sequences", run_id).sort("sequence_id").collect().to_dicts()
    steps = lake.scan("token_steps", run_id).sort("sequence_id", "position").collect()

    def load(name: str) -> np.ndarray:
        return np.load(tmp_path / "out" / f"{done.prefix}_{name}.npy", allow_pickle=False)

    stream, last, correct, direction = map(
        load, ("residual_stream", "representations", "correctness", "correctness_direction")
    )
    tokens, mask = load("tokens"), load("attention_mask")
    assert stream.shape == (12, 80, 128) and stream.dtype == np.float32
    assert last.shape == (12, 128) and correct.dtype == np.int32 and direction.shape == (128,)
    assert tokens.dtype == np.int32 and mask.dtype == np.uint8 and tokens.shape == mask.shape == (12, 80)
    assert correct.tolist() == [int(row["correct"]) for row in rows] and 0 < correct.sum() < 12
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS).eval()
    at_end = []
    for index, row in enumerate(rows):
        ids = steps.filter(steps["sequence_id"] == row["sequence_id"])["token_id"].to_numpy()
        states = model.transformer(torch.tensor(ids)[None]).last_hidden_state[0].numpy()
        n = row["n_prompt_tokens"]
        assert np.linalg.norm(last[index] - states[-1]) <= 1e-4 * np.linalg.norm(states[-1])
        unit = states[:n] / np.linalg.norm(states[:n], axis=1, keepdims=True)
        assert np.abs(stream[index, :n] - unit).max() < 1e-4 and not stream[index, n:].any()
        assert tokens[index, :n].tolist() == ids[:n].tolist() and mask[index].sum() == n and mask[index, :n].all()
        at_end.append(unit[-1])
    ends = np.array(at_end, np.float64)
    expected = ends[correct == 1].mean(axis=0) - ends[correct == 0].mean(axis=0)
    assert np.abs(direction - expected).max() < 1e-4 * np.abs(expected).max() + 1e-5


def test_lines_have_the_names_of_the_source_and_keys_to_join_by(run: tuple[Lake, str], tmp_path: Path) -> None:
    lake, run_id = run
    done = export_correctness(lake, run_id, tmp_path, normalize=False)

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / f"{done.prefix}_{name}").read_text().splitlines()]

    rows = lake.scan("sequences", run_id).sort("sequence_id").collect().to_dicts()
    graded, metadata, [stats] = lines("eval.jsonl"), lines("metadata.jsonl"), lines("stats.json")
    source = ["index", "prompt", "target_answer", "predicted_answer", "response_text", "correct", "metadata"]
    assert list(graded[0])[:7] == source and list(metadata[0])[:5] == ["dataset", "split", "index", "prompt", "answer"]
    for index, row in enumerate(rows):
        assert graded[index]["prompt"] == row["rendered_prompt"] != row["prompt"] == metadata[index]["prompt"]
        assert graded[index]["response_text"] == row["completion"] and graded[index]["index"] == index
        assert graded[index]["prompt_id"] == metadata[index]["prompt_id"] == row["prompt_id"]
    n_correct = sum(row["correct"] for row in rows)
    assert (stats["total_examples"], stats["num_correct"], stats["num_incorrect"]) == (12, n_correct, 12 - n_correct)
    assert stats["accuracy"] == n_correct / 12 and stats["prompt_template"] == "Question: {question}\nAnswer:"
    assert (stats["hidden_size"], stats["normalize"], stats["max_length"]) == (128, False, 256)
    stream = np.load(tmp_path / f"{done.prefix}_residual_stream.npy")
    assert np.linalg.norm(stream[0, 0]) > 2  # not of length 1


def test_runs_that_cannot_be_exported_leave_no_files(run: tuple[Lake, str], tmp_path: Path) -> None:
    lake, run_id = run
    more = {**SETTINGS, "limit": 2, "max_new_tokens": 1}
    wrong = tracelake.collect(lake.path, **more).run_id
    without = tracelake.collect(lake.path, **{**SETTINGS, "keep": ["tokens"]}).run_id
    part = tracelake.collect(lake.path, **{**SETTINGS, "keep": ["tokens", "activations:final_norm:generated"]}).run_id
    read = tracelake.collect(lake.path, prompt=["x"], max_new_tokens=0, keep=["tokens"]).run_id
    for error, match, name, options in [
        (UsageError, r"longer than 20 tokens, the longest \d+.*--max-length", run_id, {"max_length": 20}),
        (ConfigError, "All 2 answers of run .* are wrong", wrong, {}),
        (NotFoundError, "lacks states of final_norm.*--keep tokens,activations:final_norm", without, {}),
        (NotFoundError, "lacks states|has not kept final_norm of every token", part, {}),
        (UsageError, "no graded answers", read, {}),
    ]:
        with pytest.raises(error, match=match):
            export_correctness(lake, name, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
