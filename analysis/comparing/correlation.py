"""Rank correlation with an interval that draws prompts, because the steps of one prompt are alike; knows arrays."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

LEAST = 10
"""Fewer pairs than this give no correlation."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation of two quantities; NaN and a reason where there is none."""

    n: int
    n_prompts: int
    spearman: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    reason: str | None = None


def correlation(
    x: Float[np.ndarray, " value"], y: Float[np.ndarray, " value"], prompt: Int[np.ndarray, " value"], *,
    n_draws: int = 1000, seed: int = 0,
) -> Correlation:  # fmt: skip
    """Spearman's correlation of the finite pairs, and its 95 % interval over prompts drawn with replacement."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y, prompt = x[known], y[known], prompt[known]
    groups, index = np.unique(prompt, return_inverse=True)
    n, n_prompts = len(x), len(groups)
    if n < LEAST:
        return Correlation(n, n_prompts, reason=f"fewer than {LEAST} pairs of values")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(n, n_prompts, reason="one of the two does not vary")
    ranks = [pl.Series(values).rank("average").to_numpy() - (n + 1) / 2 for values in (x, y)]
    a, b = ranks
    # Sums per prompt: a draw of prompts is a weighting of these.
    sums = np.stack([np.bincount(index, w, n_prompts) for w in (np.ones(n), a, b, a * a, b * b, a * b)])
    found = float(_pearson(sums.sum(axis=1)[:, None])[0])
    if n_prompts < 2:
        return Correlation(n, n_prompts, found, reason="no interval: only one prompt")
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=n_draws).T
    draws = _pearson(sums @ weights)
    low, high = np.nanquantile(draws, [0.025, 0.975]) if np.isfinite(draws).any() else (np.nan, np.nan)
    return Correlation(n, n_prompts, found, float(low), float(high))


def _pearson(sums: Float[np.ndarray, "6 draw"]) -> Float[np.ndarray, " draw"]:
    n, a, b, aa, bb, ab = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        return (ab - a * b / n) / np.sqrt((aa - a * a / n) * (bb - b * b / n))
