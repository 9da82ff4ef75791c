"""Attention scores reduced in blocks, without later keys, many layers together, in memory that is used again."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tracelake.collect.observing.attention import AttentionObserver
from tracelake.collect.observing.scratch import Scratch
from tracelake.collect.observing.summaries import attention_rows, distribution, distributions

BATCH, HEADS, SHARED, D_HEAD = 3, 4, 2, 8
PADS = torch.tensor([0, 2, 5])


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def attention(n_query: int, n_key: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(BATCH, HEADS, n_query, D_HEAD), torch.randn(BATCH, SHARED, n_key, D_HEAD)


def causal(n_query: int, n_key: int) -> Tensor:
    return torch.ones(n_query, n_key, dtype=torch.bool).tril(n_key - n_query).expand(BATCH, 1, -1, -1)


def padded(n_query: int, n_key: int) -> Tensor:
    """Causal, and the first keys of two rows are none; a query that sees nothing sees itself."""
    allowed = causal(n_query, n_key) & (torch.arange(n_key) >= PADS[:, None])[:, None, None]
    return allowed | torch.eye(n_key, dtype=torch.bool)[n_key - n_query :]


def both_ways(n_query: int, n_key: int) -> Tensor:
    """A prefix that sees all of itself, as some models read it."""
    return causal(n_query, n_key) | (torch.arange(n_key) < n_key - 1).expand(BATCH, 1, n_query, -1)


def by_hand(query: Tensor, key: Tensor, allowed: Tensor) -> dict[str, Tensor]:
    """Entropy, largest weight and its key, in float64."""
    repeated = key.double().repeat_interleave(HEADS // SHARED, 1)
    scores = query.double() @ repeated.transpose(-1, -2) / math.sqrt(D_HEAD)
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    largest = weights.max(-1)
    return {
        "entropy_bits": torch.special.entr(weights).sum(-1) / math.log(2),
        "max_weight": largest.values,
        "max_index": largest.indices,
    }


def additive(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("as_numbers", [False, True], ids=["boolean", "additive"])
@pytest.mark.parametrize("mask", [None, causal, padded, both_ways])
@pytest.mark.parametrize(("n_query", "n_key"), [(12, 12), (5, 17), (2, 9), (1, 9)])
@pytest.mark.parametrize("block_bytes", [1, 1_500, 1 << 20])
def test_blocks_are_those_of_the_whole(mask, as_numbers: bool, n_query: int, n_key: int, block_bytes: int) -> None:
    query, key = attention(n_query, n_key)
    allowed = (mask or causal)(n_query, n_key)
    given = None if mask is None else additive(allowed) if as_numbers else allowed
    observer = AttentionObserver(causal=True, statistics=True, capture=frozenset(), block_bytes=block_bytes)
    observer.start(n_key)
    observer.observe(0, query, key, key, given, {})
    for name, wanted in by_hand(query, key, allowed).items():
        torch.testing.assert_close(getattr(observer.rows[0], name).double(), wanted.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_layers_that_wait_are_each_their_own(block_bytes: int) -> None:
    """Layers with windows have fewer keys; a sink takes weight and is no key."""
    observer = AttentionObserver(causal=True, statistics=True, capture=frozenset(), block_bytes=block_bytes)
    observer.start(20)
    sinks = torch.randn(HEADS)
    read = {layer: attention(1, (20, 7)[layer % 2], seed=layer) for layer in range(6)}
    for layer, (query, key) in read.items():
        observer.observe(layer, query, key, key, None, {"s_aux": sinks} if layer > 3 else {})
    assert sorted(observer.rows) == list(read)
    for layer, (query, key) in read.items():
        scores = query @ key.repeat_interleave(2, 1).transpose(-1, -2) / math.sqrt(D_HEAD)
        extra = sinks[None, :, None, None].expand(BATCH, -1, 1, 1)
        weights = (torch.cat((scores, extra), -1) if layer > 3 else scores).softmax(-1)[..., : key.shape[2]]
        rows = observer.rows[layer]
        assert rows.entropy_bits.shape == (BATCH, HEADS, 1)
        torch.testing.assert_close(rows.max_weight, weights.amax(-1))
        torch.testing.assert_close(rows.total, weights.sum(-1))
        assert torch.equal(rows.max_index, weights.argmax(-1))


def test_a_pass_begins_with_nothing_waiting() -> None:
    observer = AttentionObserver(causal=True, statistics=True, capture=frozenset(), block_bytes=1 << 20)
    query, key = attention(1, 9)
    observer.start(9)
    observer.observe(0, query, key, key, None, {})
    observer.start(10)
    assert observer.rows == {}


def test_what_is_kept_does_not_lie_in_memory_that_is_used_again() -> None:
    scratch = Scratch()
    scores = torch.randn(2, 3, 4, 50)
    kept = attention_rows(scores.clone(), scratch=scratch)
    wanted = attention_rows(scores.clone())
    attention_rows(torch.randn(2, 3, 4, 50), scratch=scratch)
    for one, other in zip(kept, wanted, strict=True):
        assert one is other is None or torch.equal(one, other)
    logits, ids = torch.randn(40, 700), torch.arange(40)
    first = distribution(logits, ids, k=5, scratch=scratch)
    distribution(torch.randn(40, 700), ids, k=5, scratch=scratch)
    in_blocks = distributions(logits, ids, k=5, block_bytes=7 * 4 * 700)
    for one, other, whole in zip(first, in_blocks, distribution(logits, ids, k=5), strict=True):
        assert torch.equal(one, whole)
        torch.testing.assert_close(other, whole)


def test_scratch_is_taken_only_where_it_may_be() -> None:
    scratch, like = Scratch(), torch.zeros(1)
    taken = scratch.take("a", (2, 3), like)
    assert taken is not None and taken.shape == (2, 3)
    smaller = scratch.take("a", (5,), like)
    assert smaller is not None and smaller.data_ptr() == taken.data_ptr()
    wider = scratch.take("a", (5,), like.double())
    assert wider is not None and wider.dtype == torch.float64
    with torch.inference_mode(mode=False):
        assert scratch.take("a", (2,), like) is None
