"""Sequences that take the places of others that have ended store what they would store in batches of their own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from compared_tables import compared_tables
from plain_sequences import PlainCausal, check_run, sequences_of
from random_models import D_MODEL, PROMPTS
from stored_values import assert_close
from unusual_models import save_unusual

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding.reading.reading import Reading
from tracelake.collect.decoding.reading.replay import replay
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.decoding.waiting import Waiting
from tracelake.collect.models.editing.changes import Add, Zero
from tracelake.collect.models.editing.edits import Edit
from tracelake.collect.running.collector import Collection, resume_run
from tracelake.collect.running.planning.plan import Plan
from tracelake.collect.running.progress import Callbacks
from tracelake.collect.running.segment import SegmentRunner
from tracelake.lake import TABLES, Lake
from tracelake.lake.errors import StoppedError

KEEP = ("tokens", "layers", "heads", "edges", "pattern@0.1", "activations:resid_post", "activations:final_norm")
SETTINGS = {
    "prompt": PROMPTS, "device": "cpu", "keep": KEEP, "max_new_tokens": 11, "batch_size": 3, "samples": 3,
    "temperature": 1.0, "seed": 5, "segment_items": 5,
}  # fmt: skip
NOT_COMPARED = {"run_id", "latency_ms", "created_at", "finished_at", "batch_size", "batch_index"}
GIVEN = {1: (40, 41, 42, 43), 3: (50,)}
EDITS = {
    1: (Edit("resid_post", 1, Add(torch.ones(D_MODEL), 1.5), "generated"),),
    2: (Edit("mlp_out", 0, Zero()), Edit("z", 2, Zero(), "prompt"), Edit("rot_k", 1, Zero(), "generated")),
    4: (Edit("v", 0, Zero(), "generated", units=(1,)), Edit("rot_q", 2, Zero(), "last")),
}
"""By work item."""


class OwnRunner(SegmentRunner):
    """Work items that are given tokens and edited, each in its own way."""

    def _sequence(self, item: int, *arguments: Any, **named: Any) -> Sequence:
        sequence = super()._sequence(item, *arguments, **named)
        sequence.given, sequence.edits = GIVEN.get(item, ()), EDITS.get(item, ())
        return sequence


class OwnCollection(Collection):
    """A collection that keeps its runner."""

    own = False

    def _runner(self, *arguments: Any, **named: Any) -> SegmentRunner:
        runner = super()._runner(*arguments, **named)
        kind = OwnRunner if self.own else SegmentRunner
        self.runner = kind(**{name: getattr(runner, name) for name in runner.__dataclass_fields__})
        return self.runner


def collect(
    folder: Path, path: Path, *, separate: bool = False, own: bool = False, **settings: object
) -> tuple[Lake, OwnCollection]:
    collection = OwnCollection(CollectConfig(model=str(folder), **{**SETTINGS, **settings}))
    reading = replace(collection.plan.reading, separate=separate)
    collection.plan, collection.own = replace(collection.plan, chunk=5, reading=reading), own
    lake = Lake.create(path)
    collection.start(lake, assume_yes=True)
    return lake, collection


def rows(lake: Lake, table: str) -> pl.DataFrame:
    frame = lake.scan(table).collect()
    key = [name for name in TABLES[table].key if name != "run_id"]
    if table == "attention_edges":
        # Of equal weights any may be the one that the cap leaves out: keys are compared in `max_key` and `patterns`.
        key = [*(name for name in key if name != "key"), "weight"]
        frame = frame.drop("key")
    return frame.drop([name for name in NOT_COMPARED if name in frame.columns]).sort(key)


def assert_alike(first: Lake, second: Lake) -> None:
    """All stored rows: the same tokens and counts, numbers within the tolerances."""
    compared = 0
    for table in compared_tables(first, second):
        a, b = rows(first, table.name), rows(second, table.name)
        assert a.columns == b.columns and a.height == b.height, table.name
        compared += a.height
        for name, values in a.to_dict().items():
            assert_alike_column(f"{table.name}.{name}", values, b[name])
    assert compared > 1500


def assert_alike_column(label: str, values: pl.Series, other: pl.Series) -> None:
    if label == "activations.vector":
        for one, two in zip(values, other, strict=True):
            found, wanted = np.frombuffer(one, np.float32), np.frombuffer(two, np.float32)
            assert np.linalg.norm(found - wanted) <= 1e-4 * np.linalg.norm(wanted), label
    elif isinstance(values.dtype, pl.List) and values.dtype.inner.is_float():
        assert values.list.len().equals(other.list.len(), null_equal=True), label
        assert_close(label, values.explode(), other.explode().cast(pl.Float64).to_numpy())
    elif values.dtype.is_float():
        assert_close(label, values, other.cast(pl.Float64).to_numpy())
    else:
        assert values.equals(other, null_equal=True), label


def entered(lake: Lake) -> list[tuple[int, int]]:
    """Size of the batch that each sequence entered and its row there, in the order in which they were taken."""
    found = lake.scan("sequences").collect().sort("n_prompt_tokens", "sequence_id", descending=[True, False])
    return found.select("batch_size", "batch_index").rows()


def assert_joined(lake: Lake) -> None:
    """Sequences came into a batch while others ran: only who finds nobody there enters as the first row."""
    places = entered(lake)
    assert places[:3] == [(3, 0), (3, 1), (3, 2)]
    assert sum(row == 0 for _, row in places) < len(places) / 3


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "mistral-window", "gemma2", "t5"])
def test_joined_equals_separate(model_folder: Callable[[str], Path], tmp_path: Path, architecture: str) -> None:
    joined, collection = collect(model_folder(architecture), tmp_path / "joined")
    separate, other = collect(model_folder(architecture), tmp_path / "separate", separate=True)
    assert collection.plan.reading == Reading()
    assert [len(batch) for batch in collection.runner.batches] == [15]
    assert [len(batch) for batch in other.runner.batches] == [3] * 5
    assert entered(separate) == [(3, 0), (3, 1), (3, 2)] * 5
    assert_joined(joined)
    assert_alike(joined, separate)
    assert joined.verify("deep").ok


def test_a_hybrid_cache_joins_too(tmp_path: Path) -> None:
    """Layers that hold a state of the whole row beside layers that hold keys."""
    folder = save_unusual("jamba", tmp_path / "model")
    keep = ("tokens", "layers", "activations:resid_post", "activations:final_norm")
    joined, collection = collect(folder, tmp_path / "joined", keep=keep)
    assert collection.plan.reading == Reading(whole_prompts=True)
    assert_joined(joined)
    assert_alike(joined, collect(folder, tmp_path / "separate", keep=keep, separate=True)[0])


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_given_tokens_edits_and_stop_rules_belong_to_their_rows(
    model_folder: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    settings = {"own": True, "stop_when": ("margin < 0.3 for 3",), "repetition_penalty": 1.3}
    joined, collection = collect(model_folder(architecture), tmp_path / "joined", **settings)
    separate, _ = collect(model_folder(architecture), tmp_path / "separate", separate=True, **settings)
    assert_joined(joined)
    assert_alike(joined, separate)
    plain, _ = collect(model_folder(architecture), tmp_path / "plain")
    reasons = joined.scan("sequences").collect()["finish_reason"].value_counts().rows()
    assert len(reasons) >= 2 and dict(reasons)["stopped"] >= 2
    for number, tokens in sequences_of(joined, joined.resolve_run("latest")).items():
        given = GIVEN.get(number // 3, ())
        assert tokens.filter(~pl.col("is_prompt"))["token_id"].to_list()[: len(given)] == list(given)
    for item in EDITS:
        states = [
            lake.scan("activations")
            .filter(pl.col("sequence_id") == 3 * item)
            .sort("layer", "site", "position")
            .collect()
            for lake in (joined, plain)
        ]
        assert not states[0]["vector"].equals(states[1]["vector"]), "an edit that changed nothing"


def test_joined_batches_are_right_without_the_prompts(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Then samples share the reading of their prompt, also those that join alone."""
    folder, keep = model_folder("llama"), ("tokens", "heads", "activations:resid_post")
    settings = {"observe_prompt": False, "keep": keep, "batch_size": 2}
    joined, _ = collect(folder, tmp_path / "joined", **settings)
    assert_alike(joined, collect(folder, tmp_path / "separate", separate=True, **settings)[0])


def test_a_plain_pass_knows_the_same(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Greedy, with a batch of two: nearly every sequence joins another."""
    keep = ("tokens", "layers", "activations:resid_post", "activations:final_norm")
    folder = model_folder("mistral-window")
    joined, _ = collect(folder, tmp_path / "joined", keep=keep, batch_size=2, samples=1, temperature=0.0)
    assert sum(row == 0 for _, row in entered(joined)) == 1
    check_run(joined, joined.resolve_run("latest"), PlainCausal(folder).read)


def test_a_decoder_that_counts_columns_takes_nobody_in_and_says_so(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """BART's positions are those of the columns: a row that came later would stand elsewhere."""
    lake, collection = collect(model_folder("bart"), tmp_path / "lake", separate=True)
    assert any("takes the place of one that has ended" in notice for notice in collection.notices)
    assert entered(lake) == [(3, 0), (3, 1), (3, 2)] * 5


@pytest.mark.parametrize("architecture", ["qwen3", "t5"])
def test_resumed_is_uninterrupted_bit_for_bit(
    model_folder: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    settings = {**SETTINGS, "model": str(model_folder(architecture)), "segment_items": 2}
    whole, parts = Lake.create(tmp_path / "whole"), Lake.create(tmp_path / "parts")
    Collection(CollectConfig(**settings)).start(whole, assume_yes=True)
    done: list[int] = []
    callbacks = Callbacks(lambda p: done.append(p.segments_done), should_stop=lambda: bool(done) and done[-1] >= 1)
    with pytest.raises(StoppedError):
        Collection(CollectConfig(**settings), callbacks).start(parts)
    assert resume_run(parts, "latest", model=settings["model"]) is not None
    assert sum(row == 0 for _, row in entered(whole)) < 5
    for table in compared_tables(whole, parts):
        first, second = (rows(lake, table.name) for lake in (whole, parts))
        assert first.equals(second, null_equal=True), table.name


def test_a_run_that_was_planned_without_goes_on_without(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    config = CollectConfig(model=str(model_folder("gpt2")), **SETTINGS)
    values = Collection(config).plan.as_json()
    assert Plan.from_json(values).reading == Reading()
    del values["reading"]["separate"]
    collection = Collection(config, plan=Plan.from_json(values))
    assert collection.plan.reading == Reading(separate=True)
    lake = Lake.create(tmp_path)
    collection.start(lake, assume_yes=True)
    assert entered(lake) == [(3, 0), (3, 1), (3, 2)] * 5


def test_the_bare_model_reads_the_same_passes(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """What a run is compared with for its timings: as many passes over as many rows and columns."""
    shapes: list[list[tuple[int, int]]] = [[], []]
    now = shapes[0]
    collection = OwnCollection(CollectConfig(model=str(model_folder("llama")), **SETTINGS))
    hook = collection.loaded.decoder.blocks[0].register_forward_hook(
        lambda module, args, output: now.append(tuple(output.shape[:2]))
    )
    collection.start(Lake.create(tmp_path), assume_yes=True)
    now = shapes[1]
    replay(collection.loaded, collection.runner.batches, collection.plan.reading, chunk=collection.plan.chunk, n_rows=3)
    hook.remove()
    assert shapes[0] == shapes[1]
    assert max(rows for rows, _ in shapes[0]) == 3


def test_who_waits_joins_when_enough_places_are_free() -> None:
    waiting = Waiting(20, 8)
    assert waiting.take(0).tolist() == list(range(8))
    assert waiting.take(7).tolist() == []
    assert waiting.take(6).tolist() == [8, 9]
    assert waiting.take(0).tolist() == list(range(10, 18))
    assert waiting.take(7).tolist() == []
    assert waiting.take(6).tolist() == [18, 19]
    assert waiting.take(0).tolist() == []
    last = Waiting(9, 8)
    last.take(0)
    assert last.take(7).tolist() == [8], "the last one needs one place"


def test_without_a_padded_cache_nobody_joins() -> None:
    for reading in (Reading(equal_lengths=True), Reading(alone=True), Reading(uncached=True), Reading(column_scale=40)):
        assert not reading.may_join
    crossing = Reading(switch=20)
    assert crossing.joins(crossing.group(0, 5, 10)) and not crossing.joins(crossing.group(0, 15, 10))
    assert crossing.joins(crossing.group(0, 30, 10))
    assert "without taking others in" in Reading(separate=True).limits[0]
