"""Passes over stored sequences: whole, resumable, and equal to plain passes of the bare model, with gradients too."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import PROMPTS, random_model, save

import tracelake
from tracelake.collect.decoding.reading.check import choose_reading
from tracelake.collect.passes import (
    ChunkRows,
    chunks_of,
    commit_chunks,
    is_whole,
    sequence_lengths,
    sequences_with_rows,
)
from tracelake.collect.stored_sequences import (
    StoredBatch,
    batches_of,
    computing,
    load_run_model,
    stored_sequences,
)
from tracelake.lake import Lake
from tracelake.lake.derived import Analysis
from tracelake.lake.errors import ConfigError, NotFoundError, UsageError


def collected(folder: Path, model: Path | str, **options: object) -> Lake:
    settings = {"max_new_tokens": 5, "keep": ("tokens",), "tag": "read", "prompt": PROMPTS}
    tracelake.collect(folder, model=str(model), **{**settings, **options})
    return Lake.open(folder)


def test_chunks_hold_every_sequence_once() -> None:
    lengths = {3: 5, 4: 9, 7: 1, 9: 20, 11: 2}
    assert chunks_of(lengths, 10) == [[3, 4], [7, 9], [11]]
    assert chunks_of(lengths, 1) == [[3], [4], [7], [9], [11]]
    assert chunks_of({}) == []


@pytest.mark.parametrize("architecture", ["gpt2", "mistral-window", "gemma2", "t5"])
def test_states_are_those_of_one_plain_pass(
    architecture: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    lake = collected(tmp_path, model_folder(architecture))
    run_id = lake.resolve_run("read")
    loaded = load_run_model(lake, run_id)
    sequences = stored_sequences(lake, run_id, list(sequence_lengths(lake, run_id)))
    rows = lake.sql("select sequence_id, list(token_id order by position) as ids from token_steps group by all").rows()
    ids = {sequence_id: np.array(tokens) for sequence_id, tokens in rows}
    seen = set()
    for batch in batches_of(sequences, choose_reading(loaded), 3):
        with computing():
            stored = StoredBatch(loaded, batch, choose_reading(loaded))
            states = stored.read()
        for row, sequence in enumerate(batch):
            seen.add(sequence.sequence_id)
            whole = torch.from_numpy(ids[sequence.sequence_id])[None]
            n_encoded = sequence.n_encoded
            inputs = {"input_ids": whole[:, n_encoded:], "use_cache": False}
            if n_encoded:
                encoded = loaded.model.get_encoder()(input_ids=whole[:, :n_encoded]).last_hidden_state
                inputs["encoder_hidden_states"] = encoded
            with torch.no_grad():
                plain = loaded.decoder.module(**inputs).last_hidden_state[0]
            first = stored.column(row, n_encoded)
            torch.testing.assert_close(states[row, first:], plain, rtol=1e-4, atol=1e-4)
    assert seen == set(ids)


def test_gradients_flow_through_a_padded_batch(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """The gradient of a state's sum with respect to a block's output is the one of a pass over that sequence alone."""
    lake = collected(tmp_path, model_folder("llama"))
    run_id = lake.resolve_run("read")
    loaded = load_run_model(lake, run_id)
    sequences = stored_sequences(lake, run_id, [0, 1])
    reading = choose_reading(loaded)

    def gradient(batch: list) -> list[torch.Tensor]:
        leaves: list[torch.Tensor] = []

        def leaf(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
            leaves.append(output.detach().requires_grad_())
            return leaves[-1]

        hook = loaded.decoder.blocks[0].register_forward_hook(leaf)
        try:
            with computing(gradients=True):
                stored = StoredBatch(loaded, batch, reading)
                stored.read()[:, -1].square().sum().backward()
        finally:
            hook.remove()
        grad = leaves[0].grad
        assert grad is not None
        return [grad[row, pad:] for row, pad in enumerate(stored.pads)]

    together = gradient(sequences)
    assert len(together[0]) != len(together[1])
    for one, grad in zip(sequences, together, strict=True):
        alone = gradient([one])[0]
        assert alone.abs().max() > 0
        torch.testing.assert_close(grad, alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))


def test_a_pass_that_broke_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    lake = collected(tmp_path, "tinymath", prompt=("a", "b", "c"), max_new_tokens=2)
    run_id = lake.resolve_run("read")
    only = {"embedder": "counting", "scope": "completion"}
    analysis = Analysis(run_id, "count", only, "0" * 16)
    read: list[int] = []

    def compute(chunk: list[int]) -> ChunkRows:
        if len(read) == 2:
            raise RuntimeError("power cut")
        read.extend(chunk)
        columns = {"sequence_id": chunk, "position": [0] * len(chunk), "step": [0] * len(chunk)} | only
        vectors = np.ones((len(chunk), 2), np.float32)
        return ChunkRows(
            vectors=[{"table": "step_embeddings", "columns": columns, "vectors": vectors, "dtype": "float32"}]
        )

    chunks = [[sequence_id] for sequence_id in sequence_lengths(lake, run_id)]
    with pytest.raises(RuntimeError, match="power cut"):
        commit_chunks(lake, analysis, chunks, compute, n_sequences=3)
    assert sequences_with_rows(lake, run_id, "step_embeddings", only) == {0, 1} and not is_whole(lake, analysis)
    read.clear()
    missing = [chunk for chunk in chunks if chunk[0] not in {0, 1}]
    commit_chunks(lake, analysis, missing, compute, n_sequences=3, replace_older=True)
    assert read == [2] and is_whole(lake, analysis)
    rows = lake.scan("step_embeddings", run_id).collect()
    assert sorted(rows["sequence_id"]) == [0, 1, 2], "the last commit must not take out the first ones"
    newer = Analysis(run_id, "count", only, "1" * 16)
    read.clear()
    commit_chunks(lake, newer, [[0], [1]], compute, n_sequences=2, replace_older=True)
    rows = lake.scan("step_embeddings", run_id).collect()
    assert sorted(rows["sequence_id"]) == [0, 1] and not is_whole(lake, analysis), "an older answer is taken out whole"


def test_another_model_is_refused(tmp_path: Path) -> None:
    folder = save(random_model("gpt2"), tmp_path / "model")
    lake = collected(tmp_path / "lake", folder, prompt=("a",))
    run_id = lake.resolve_run("read")
    save(random_model("gpt2", seed=1), folder)
    with pytest.raises(ConfigError, match="another model: its weights_sha256"):
        load_run_model(lake, run_id)
    (tmp_path / "model").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="--model"):
        load_run_model(lake, run_id)


def test_a_run_without_tokens_is_named(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    with lake.start_run("empty", {}) as run:
        run.finish()
    with pytest.raises(NotFoundError, match="no tokens"):
        sequence_lengths(lake, "empty")
