"""Segments, batches and what is kept: decided from the configuration and the lengths alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.configuration.keep import Keep, split_items
from tracelake.collect.inputs.prompts import HubDataset, open_source
from tracelake.collect.observing.vectors import KeptVectors, each_once
from tracelake.collect.running.planning.plan import SEGMENT_BYTES, _segments, batches
from tracelake.lake.errors import ConfigError, UsageError


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 10**8), min_size=1, max_size=200), st.integers(1, 9), st.integers(1, 5)
)  # fmt: skip
def test_segments_cover_all_items_once(sizes: list[int], batch_size: int, samples: int) -> None:
    config = CollectConfig(prompt="x", batch_size=batch_size, samples=samples)
    found = _segments(np.array(sizes, dtype=float), config, 10.0, only_vectors=False)
    assert [start for start, _ in found[1:]] == [stop for _, stop in found[:-1]]
    assert found[0][0] == 0 and found[-1][1] == len(sizes)
    batch = max(1, batch_size // samples)
    for start, stop in found:
        assert stop - start <= batch or sum(sizes[start:stop]) <= SEGMENT_BYTES
        assert start % batch == 0  # no batch is cut for its bytes: a GPU would run its parts at the price of whole ones
        assert (stop - start) * samples <= 32 * max(batch_size, samples)
    n_batches = -(-len(sizes) * samples // batch_size)
    assert len(found) >= min(8, n_batches // 2, len(sizes))


def test_batches_hold_similar_lengths_and_every_sample_once() -> None:
    lengths = [5, 50, 7, 49, 6, 48]
    found = batches(lengths, 2, 4)
    assert sorted(pair for batch in found for pair in batch) == [(i, s) for i in range(6) for s in range(2)]
    assert [{lengths[i] for i, _ in batch} for batch in found] == [{50, 49}, {48, 7}, {6, 5}]
    assert found == batches(list(lengths), 2, 4)


def test_keep_items() -> None:
    keep = Keep.parse(["tokens,heads", "activations:resid_post@0,2-3,-1:last,layers"])
    assert (keep.tokens, keep.heads, keep.layers, keep.embeddings) == (True, True, True, False)
    assert [a.resolve(6) for a in keep.activations] == [[0, 2, 3, 5]]
    assert keep.activations[0].scope == "last"
    assert split_items(["activations:z@1, 4 ,tokens"]) == ["activations:z@1,4", "tokens"]
    assert Keep.parse(["activations:final_norm"]).activations[0].resolve(6) == [5]
    with pytest.raises(ConfigError, match="0 to 5"):
        Keep.parse(["activations:z@6"]).activations[0].resolve(6)
    with pytest.raises(UsageError, match="prompt, generated, last"):
        Keep.parse(["activations:z@1:first"])


def test_overlapping_scopes_keep_each_vector_once() -> None:
    def scopes(*names: str | None, generates: bool = True) -> list[str | None]:
        return [w.scope for w in each_once([KeptVectors("z", 0, name) for name in names], generates=generates)]

    assert scopes(None, "last") == [None]
    assert scopes("prompt", "generated") == [None]
    assert scopes("last", "generated") == ["generated"]
    assert scopes("last", "prompt") == ["last", "prompt"]
    assert scopes("last", "prompt", generates=False) == ["prompt"]


def test_a_dataset_folder_is_read_through_the_datasets_library(tmp_path: Path) -> None:
    rows = [{"question": "One?", "answer": "1"}, {"question": "Two?", "answer": "2"}]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = list(HubDataset(str(tmp_path), "train"))
    assert [(p.text, p.answer) for p in found] == [("One?", "1"), ("Two?", "2")]
    again = open_source(CollectConfig(dataset=f"{tmp_path}:train", limit=1))
    assert [p.text for p in again] == ["One?"] and [p.text for p in again] == ["One?"]


def test_messages_have_a_prompt_id_that_does_not_depend_on_key_order(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"messages":[{"role":"user","content":"é"}]}\n{"messages":[{"content":"é","role":"user"}]}\n')
    first, second = open_source(CollectConfig(prompts=str(file)))
    assert first.prompt_id == second.prompt_id and "é" in first.text
