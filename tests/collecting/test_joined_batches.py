"""Sequences that take the places of others that have ended store what they would store in batches of their own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from plain_sequences import PlainCausal, check_run
from random_models import D_MODEL, PROMPTS
from stored_values import assert_close
from unusual_models import save_unusual

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding.reading import Reading
from tracelake.collect.decoding.replay import replay
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.decoding.waiting import Waiting
from tracelake.collect.models.editing.changes import Add, Zero
from tracelake.collect.models.editing.edits import Edit
from tracelake.collect.running.collector import Callbacks, Collection, resume_run
from tracelake.collect.running.planning.plan import Plan
from tracelake.collect.running.segment import SegmentRunner
from tracelake.lake import TABLES, Lake
from tracelake.lake.errors import StoppedError
from tracelake.lake.schema import stored_tables

KEEP = ("tokens", "layers", "heads", "edges", "pattern@0.1", "activations:resid_post", "activations:final_norm")
SETTINGS = {
    "prompt": PROMPTS, "device": "cpu", "keep": KEEP, "max_new_tokens": 11, "batch_size": 3, "samples": 3,
    "temperature": 1.0, "seed": 5, "segment_items": 5,
}  # fmt: skip
NOT_COMPARED = {"run_id", "latency_ms", "created_at", "finished_at", "batch_size", "batch_index"}


def collect(folder: Path, path: Path, *, separate: bool = False, **settings: object) -> tuple[Lake, Collection]:
    collection = Collection(CollectConfig(model=str(folder), **{**SETTINGS, **settings}))
    reading = replace(collection.plan.reading, separate=separate or collection.plan.reading.separate)
    collection.plan = replace(collection.plan, chunk=5, reading=reading)
    lake = Lake.create(path)
    collection.start(lake, assume_yes=True)
    return lake, collection


def rows(lake: Lake, table: str) -> pl.DataFrame:
    frame = lake.scan(table).collect()
    key = [name for name in TABLES[table].key if name != "run_id"]
    return frame.drop([name for name in NOT_COMPARED if name in frame.columns]).sort(key)


def assert_alike(first: Lake, second: Lake) -> None:
    """All stored rows: the same tokens and counts, numbers within the tolerances."""
    compared = 0
    for table in stored_tables():
        if table.name == "operations":
            continue
        a, b = rows(first, table.name), rows(second, table.name)
        assert a.columns == b.columns and a.height == b.height, table.name
        compared += a.height
        for name, values in a.to_dict().items():
            label, other = f"{table.name}.{name}", b[name]
            if name == "vector":
                assert_vectors(label, a, b)
            elif isinstance(values.dtype, pl.List) and values.dtype.inner.is_float():
                assert values.list.len().equals(other.list.len(), null_equal=True), label
                assert_close(label, values.explode(), other.explode().cast(pl.Float64).to_numpy())
            elif values.dtype.is_float():
                assert_close(label, values, other.cast(pl.Float64).to_numpy())
            else:
                assert values.equals(other, null_equal=True), label
    assert compared > 2000


def assert_vectors(label: str, a: pl.DataFrame, b: pl.DataFrame) -> None:
    for one, other in zip(a["vector"], b["vector"], strict=True):
        one, other = np.frombuffer(one, np.float32), np.frombuffer(other, np.float32)
        assert np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(other), label


def entered(lake: Lake) -> list[tuple[int, int]]:
    """Size of the batch that each sequence entered, and its row there, by prompt length as they were taken."""
    found = lake.scan("sequences").collect().sort("n_prompt_tokens", "sample", descending=[True, False])
    return found.select("batch_size", "batch_index").rows()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "mistral-window", "gemma2", "t5", "bart"])
def test_joined_equals_separate(model_folder: Callable[[str], Path], tmp_path: Path, architecture: str) -> None:
    joined, collection = collect(model_folder(architecture), tmp_path / "joined")
    separate, _ = collect(model_folder(architecture), tmp_path / "separate", separate=True)
    assert collection.plan.reading == Reading()
    assert len(collection.runner_batches()) == 1 if hasattr(collection, "runner_batches") else True
    assert_alike(joined, separate)
    assert entered(separate) == [(3, 0), (3, 1), (3, 2)] * 5
    assert any(row not in ((3, 0), (3, 1), (3, 2)) for row in entered(joined)) or entered(joined) != entered(separate)
    assert joined.verify("deep").ok
