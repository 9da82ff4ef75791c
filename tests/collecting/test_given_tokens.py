"""Completion tokens that are read, not chosen: a forced token and prefixes, in unequal batches, and plain passes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from plain_sequences import KEEP, PlainCausal, check_run, sequences_of
from random_models import PROMPTS, random_model, save

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding.reading.replay import replay
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.inputs.tokenizing.tokenized import TokenizedPrompt
from tracelake.collect.running.collector import Collected, Collection
from tracelake.collect.running.segment import SegmentRunner
from tracelake.lake import Lake

GIVEN = ((31, 32, 33, 34, 35, 36, 37, 38, 39), (), (50,), (60, 61, 62), (70, 71))
"""Per prompt: a prefix that spans chunks, nothing, one forced token, short prefixes."""
SAMPLED = {"samples": 2, "temperature": 1.0, "batch_size": 4, "seed": 3}


class GivingRunner(SegmentRunner):
    """Gives each prompt's sequences the beginning of their completion."""

    given: tuple[tuple[int, ...], ...] = GIVEN

    def _sequence(self, item: int, sample: int, tokenized: TokenizedPrompt) -> Sequence:
        return replace(super()._sequence(item, sample, tokenized), given=self.given[item])


class GivingCollection(Collection):
    """A collection whose runner is a `GivingRunner`."""

    def _runner(self, *arguments: object) -> SegmentRunner:
        runner = super()._runner(*arguments)  # type: ignore[arg-type]
        self.runner = GivingRunner(**{name: getattr(runner, name) for name in runner.__dataclass_fields__})
        return self.runner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_model("llama"), tmp_path_factory.mktemp("llama"))


def give(folder: Path, path: Path, **settings: object) -> tuple[Lake, Collected, GivingCollection]:
    wanted = {"prompt": PROMPTS, "keep": KEEP, "device": "cpu", "max_new_tokens": 12, "batch_size": 5, **settings}
    collection = GivingCollection(CollectConfig(model=str(folder), segment_items=5, **wanted))
    collection.plan = replace(collection.plan, chunk=5)
    lake = Lake.create(path)
    return lake, collection.start(lake, assume_yes=True), collection


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_given_tokens_are_read_and_the_rest_is_chosen(folder: Path, tmp_path: Path, settings: dict) -> None:
    lake, run, _ = give(folder, tmp_path / "lake", **settings)
    plain = PlainCausal(folder)
    check_run(lake, run.run_id, plain.read, greedy=False)
    samples = settings.get("samples", 1)
    sequences = lake.scan("sequences", run=run.run_id).collect().sort("sequence_id")
    for number, tokens in sequences_of(lake, run.run_id).items():
        given = GIVEN[number // samples]
        completion = tokens.filter(~pl.col("is_prompt"))
        assert completion["token_id"].to_list()[: len(given)] == list(given)
        assert completion["step"].to_list() == list(range(len(completion)))
        assert completion["is_forced"].to_list() == [i < len(given) for i in range(len(completion))]
        assert len(given) < len(completion) <= len(given) + 12
        assert sequences["n_generated_tokens"][number] == len(completion)
        assert completion["latency_ms"].is_null().to_list() == completion["is_forced"].to_list()
        if settings:
            assert completion["sampling_logprob"].is_null().to_list() == completion["is_forced"].to_list()
        else:
            logits, _ = plain.read(tokens["token_id"].to_numpy().astype(np.int64))
            n = int(tokens["is_prompt"].sum()) + len(given)
            assert tokens["token_id"].to_list()[n:] == logits.argmax(-1)[n - 1 : -1].tolist()


def test_what_follows_is_drawn_as_if_the_tokens_had_been_chosen(folder: Path, tmp_path: Path) -> None:
    """A draw depends on the step in the completion: given its own beginning, a sequence goes on as it did."""
    lake, run, collection = give(folder, tmp_path / "first", **SAMPLED)
    before = [sequence for batch in collection.runner.batches for sequence in batch]
    own = {s.item: tuple(s.generated[: max(1, len(s.generated) - 2)]) for s in before if s.sample == 0}
    GivingRunner.given = tuple(own[item] for item in range(len(PROMPTS)))
    try:
        again, run, collection = give(folder, tmp_path / "again", **SAMPLED)
    finally:
        GivingRunner.given = GIVEN
    after = {s.sequence_id: s for batch in collection.runner.batches for s in batch}
    longer = [s for s in before if s.sample == 0 and len(s.generated) > len(own[s.item])]
    assert longer
    assert all(after[s.sequence_id].generated[: len(s.generated)] == s.generated for s in longer)


def test_vectors_of_given_tokens_belong_to_the_completion(folder: Path, tmp_path: Path) -> None:
    keep = ("tokens", "activations:resid_post@0:prompt", "activations:resid_post@1:generated")
    lake, run, _ = give(folder, tmp_path / "lake", keep=keep)
    vectors = lake.scan("activations", run=run.run_id).select("sequence_id", "position", "layer").collect()
    tokens = lake.scan("token_steps", run=run.run_id).select("sequence_id", "position", "is_prompt").collect()
    stored = vectors.join(tokens, on=["sequence_id", "position"])
    assert (stored["is_prompt"] == (stored["layer"] == 0)).all()
    assert len(stored) == len(tokens) == len(vectors)


def test_without_the_prompt_given_tokens_are_observed(folder: Path, tmp_path: Path) -> None:
    lake, run, _ = give(folder, tmp_path / "lake", observe_prompt=False, keep=("tokens", "layers"))
    states = lake.scan("layer_summaries", run=run.run_id).select("sequence_id", "position").unique().collect()
    for number, tokens in sequences_of(lake, run.run_id).items():
        n = int(tokens["is_prompt"].sum())
        known = tokens["logprob"].is_not_null().to_list()
        assert known == [position >= n for position in range(len(tokens))]
        positions = sorted(states.filter(pl.col("sequence_id") == number)["position"].to_list())
        assert positions == list(range(n - 1, len(tokens)))


def test_the_same_tokens_can_be_replayed(folder: Path, tmp_path: Path) -> None:
    *_, collection = give(folder, tmp_path / "lake")
    seen: list[int] = []
    hook = collection.loaded.decoder.blocks[0].register_forward_hook(
        lambda module, args, output: seen.append(output.shape[:2].numel())
    )
    with torch.inference_mode():
        replay(collection.loaded, collection.runner.batches, collection.plan.reading, chunk=5)
    hook.remove()
    batch = collection.runner.batches[0]
    width = max(sequence.n_opening for sequence in batch)
    assert sum(seen) == width * len(batch) + sum(len(s.generated) - len(s.given) for s in batch)


def test_the_most_new_tokens_are_those_that_are_chosen(folder: Path, tmp_path: Path) -> None:
    lake, run, _ = give(folder, tmp_path / "lake", max_new_tokens=2)
    for row in lake.scan("sequences", run=run.run_id).collect().sort("sequence_id").iter_rows(named=True):
        n_chosen = row["n_generated_tokens"] - len(GIVEN[row["sequence_id"]])
        assert n_chosen == 2 if row["finish_reason"] == "length" else 1 <= n_chosen <= 2
