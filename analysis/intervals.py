"""95 % intervals that draw problems with replacement, and the jackknife over samples of one problem; knows arrays."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

DRAWS = 2_000
_CELLS = 4_000_000
"""Draws x problems held at once."""
_FEW = 500
"""Problems up to which their draws are kept."""
ONE_PROMPT = "only one prompt"


@dataclass(frozen=True)
class Mean:
    """A mean over problems; NaN and a reason where there is none, or no interval."""

    n_prompts: int
    mean: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    reason: str | None = None


def drawn_counts(n_prompts: int, n_draws: int = DRAWS) -> Iterator[Int[np.ndarray, "draw prompt"]]:
    """How often each problem is drawn, in blocks of draws; the same draws for the same number of problems."""
    rng = np.random.default_rng(0)
    block = max(1, min(n_draws, _CELLS // max(1, n_prompts)))
    for start in range(0, n_draws, block):
        n = min(block, n_draws - start)
        drawn = rng.integers(0, n_prompts, (n, n_prompts)) + n_prompts * np.arange(n)[:, None]
        yield np.bincount(drawn.ravel(), minlength=n * n_prompts).reshape(n, n_prompts)


@lru_cache(maxsize=4)
def _drawn_once(n_prompts: int) -> tuple[Int[np.ndarray, "draw prompt"], ...]:
    return tuple(drawn_counts(n_prompts))


def _counts_of_few(n_prompts: int) -> Iterable[Int[np.ndarray, "draw prompt"]]:
    """The draws, kept for the next interval over as many problems where they are small (at most 8 MB)."""
    return _drawn_once(n_prompts) if n_prompts <= _FEW else drawn_counts(n_prompts)


def mean_over_prompts(values: Float[np.ndarray, " prompt"]) -> Mean:
    """The mean of the finite values of problems, with its interval."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return Mean(0, reason="no prompt has a value")
    if len(known) == 1:
        return Mean(1, float(known[0]), reason=ONE_PROMPT)
    means = np.concatenate([counts @ known for counts in _counts_of_few(len(known))]) / len(known)
    low, high = np.quantile(means, [0.025, 0.975])
    return Mean(len(known), float(known.mean()), float(low), float(high))


def jackknife_errors(values: Float[np.ndarray, "statistic left_out"]) -> Float[np.ndarray, " statistic"]:
    """Standard errors from statistics' values with one sample left out each; NaN for fewer than 2."""
    n = values.shape[1]
    if n < 2:
        return np.full(len(values), np.nan)
    return np.sqrt((n - 1) / n * np.square(values - values.mean(axis=1, keepdims=True)).sum(axis=1))
