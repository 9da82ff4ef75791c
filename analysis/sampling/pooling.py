"""Pooled states: the mean of a site over every k-th answer token, up to a checkpoint, of these the last few.

Token count t+1 belongs to step t, so a stride k takes steps k-1, 2k-1, ...
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from ...lake.errors import UsageError
from ...lake.snapshot import Snapshot
from ..paths.states import check_finite, read_states

STRIDE, SHORT_STRIDE, SHORT = 32, 1, 64
"""Stride unless said; stride where half of the answers are shorter than `SHORT` tokens."""


@dataclass(frozen=True)
class Pooling:
    """Which answer tokens are pooled."""

    stride: int
    window: int | None = None
    checkpoint: int | None = None

    def picked(
        self, step: Int[np.ndarray, " row"], n_answer: Int[np.ndarray, " row"], first: Int[np.ndarray, " row"] | int = 0
    ) -> Bool[np.ndarray, " row"]:
        """Whether each step of an answer of that length is pooled; steps before `first` never are."""
        place = (step + 1) // self.stride
        kept = (step >= first) & (step < n_answer) & ((step + 1) % self.stride == 0)
        last = self._last(n_answer)
        kept &= place <= last
        return kept if self.window is None else kept & (place > last - self.window)

    def expected(
        self, n_answer: Int[np.ndarray, " sequence"], first: Int[np.ndarray, " sequence"] | int = 0
    ) -> Int[np.ndarray, " sequence"]:
        """How many tokens are pooled of answers of these lengths."""
        last = self._last(n_answer)
        before = np.minimum(first // self.stride + 0 * last, last)
        if self.window is not None:
            before = np.maximum(before, last - self.window)
        return last - before

    def _last(self, n_answer: np.ndarray) -> np.ndarray:
        length = n_answer if self.checkpoint is None else np.minimum(n_answer, self.checkpoint)
        return length // self.stride


@dataclass(frozen=True)
class Pooled:
    """One pooled state per sequence; NaN where no token qualifies, or where not all that do are stored."""

    states: Float[np.ndarray, "sequence dim"]
    n_tokens: Int[np.ndarray, " sequence"]
    """Tokens in each mean."""
    reason: list[str | None]


def pool(
    snapshot: Snapshot,
    site: str,
    layer: int,
    sequences: pl.DataFrame,
    poolings: Sequence[Pooling],
    first: Int[np.ndarray, " sequence"] | None = None,
) -> list[Pooled]:
    """The pooled states by each pooling, in one reading; `first` is the step before which nothing counts."""
    n_answer = sequences["n_answer"].to_numpy().astype(np.int64)
    start = np.zeros(len(n_answer), np.int64) if first is None else first
    sums = np.zeros((len(poolings), len(n_answer), 0))
    counts = [np.zeros(len(n_answer), np.int64) for _ in poolings]
    for states in read_states(snapshot, site, layer, sequences, check=False):
        if not sums.shape[2]:
            sums = np.zeros((*sums.shape[:2], states.vectors.shape[1]))
        place = states.place
        picked = np.stack([one.picked(states.step, n_answer[place], start[place]) for one in poolings])
        for count, own in zip(counts, picked, strict=True):
            count += np.bincount(place[own], minlength=len(count))
        if not _add(sums, states.vectors, place, picked):
            check_finite(states, sequences["sequence_id"].to_numpy(), site, layer)
    return [
        _pooled(total, count, pooling.expected(n_answer, start))
        for pooling, total, count in zip(poolings, sums, counts, strict=True)
    ]


def _add(
    sums: Float[np.ndarray, "pooling sequence dim"],
    vectors: Float[np.ndarray, "row dim"],
    place: Int[np.ndarray, " row"],
    picked: Bool[np.ndarray, "pooling row"],
) -> bool:
    """Add each row to the sums that picked it, in one pass over the rows of each sequence.

    Returns whether all rows are finite, also those that no sum picked: what is not finite stays so in the sum of all.
    """
    # In the precision of the states (numpy would convert each row first, which takes longer than reading it).
    rows = np.ones((1 + len(picked), len(place)), np.result_type(vectors.dtype, np.float32))
    rows[1:] = picked
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    finite = True
    with np.errstate(over="ignore", invalid="ignore"):
        for i, j in zip(starts.tolist(), [*starts[1:].tolist(), len(place)], strict=True):
            parts = rows[:, i:j] @ vectors[i:j]
            finite = finite and bool(np.isfinite(parts).all())
            sums[:, place[i]] += parts[1:]
    return finite


def _pooled(total: np.ndarray, count: np.ndarray, expected: np.ndarray) -> Pooled:
    whole = (count == expected) & (expected > 0)
    states = np.full_like(total, np.nan)
    states[whole] = total[whole] / count[whole][:, None]
    why = [
        "too short" if n == 0 else None if complete else "not all states are stored"
        for n, complete in zip(expected.tolist(), whole.tolist(), strict=True)
    ]
    return Pooled(states, np.where(whole, count, 0), why)


def default_stride(n_answer: Int[np.ndarray, " sequence"]) -> int:
    """32; 1 where half of the answers have fewer than 64 tokens."""
    return SHORT_STRIDE if len(n_answer) and np.median(n_answer) < SHORT else STRIDE


def check_pooling(stride: int | None, window: int | None, checkpoints: Sequence[int]) -> None:
    """UsageError for numbers that leave nothing to pool."""
    given = [("--stride", stride), ("--window", window), *(("--checkpoint", one) for one in checkpoints)]
    for flag, value in given:
        if value is not None and value < 1:
            raise UsageError(f"{flag} must be 1 or more, not {value}.")
