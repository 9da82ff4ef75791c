"""Differences between two groups of sequences, tested prompt by prompt; knows arrays only.

Sequences of one prompt are alike, so they are no independent observations. Where prompts have both groups, a prompt's
difference of means is the observation and labels are permuted within prompts. Where no prompt has both, prompts' means
are the observations and labels are permuted between prompts. Intervals draw prompts with replacement.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

BATCH = 256
WITHIN, BETWEEN = "within prompts", "between prompts"


@dataclass(frozen=True)
class Difference:
    """The difference a - b of one metric; NaN and a reason where it cannot be tested."""

    design: str
    n_a: int
    n_b: int
    n_prompts: int
    mean_a: float = np.nan
    mean_b: float = np.nan
    difference: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    effect_size: float = np.nan
    p_value: float = np.nan
    reason: str | None = None


def difference(
    values: Float[np.ndarray, " sequence"],
    prompt: Int[np.ndarray, " sequence"],
    in_a: Bool[np.ndarray, " sequence"],
    *,
    n_permutations: int,
    seed: int,
) -> Difference:
    """The tested difference; `prompt` are any whole numbers, equal for sequences of one prompt."""
    known = np.isfinite(values)
    values, prompt, in_a = values[known], prompt[known], in_a[known]
    shared = np.intersect1d(prompt[in_a], prompt[~in_a])
    if len(shared):
        kept = np.isin(prompt, shared)
        return _within(values[kept], np.unique(prompt[kept], return_inverse=True)[1], in_a[kept], n_permutations, seed)
    return _between(values, prompt, in_a, n_permutations, seed)


def _within(values: np.ndarray, prompt: np.ndarray, in_a: np.ndarray, n_permutations: int, seed: int) -> Difference:
    n_prompts = int(prompt.max()) + 1
    n_a, n_b = (np.bincount(prompt[side], minlength=n_prompts) for side in (in_a, ~in_a))
    means = [
        np.bincount(prompt[side], values[side], n_prompts) / n for side, n in ((in_a, n_a), (~in_a, n_b))
    ]  # fmt: skip
    gaps = means[0] - means[1]
    found = permuted(values, prompt, n_a, n_permutations, seed)
    low, high = _interval([gaps], seed)
    return Difference(
        WITHIN, int(n_a.sum()), int(n_b.sum()), n_prompts, float(means[0].mean()), float(means[1].mean()),
        float(gaps.mean()), low, high, _ratio(gaps.mean(), gaps.std(ddof=1) if n_prompts > 1 else np.nan),
        p_value(float(gaps.mean()), found),
        "no interval: only one prompt has both" if n_prompts == 1 else None,
    )  # fmt: skip


def _between(values: np.ndarray, prompt: np.ndarray, in_a: np.ndarray, n_permutations: int, seed: int) -> Difference:
    sides = [_prompt_means(values[side], prompt[side]) for side in (in_a, ~in_a)]
    a, b = sides
    counts = (int(in_a.sum()), int((~in_a).sum()), len(a) + len(b))
    if len(a) < 2 or len(b) < 2:
        return Difference(BETWEEN, *counts, reason="fewer than two prompts on a side have a value")
    gap = float(a.mean() - b.mean())
    both = np.concatenate(sides)
    found = permuted(both, np.zeros(len(both), np.int64), np.array([len(a)]), n_permutations, seed)
    low, high = _interval(sides, seed)
    spread = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(both) - 2))
    return Difference(
        BETWEEN, *counts, float(a.mean()), float(b.mean()), gap, low, high, _ratio(gap, spread), p_value(gap, found)
    )


def permuted(
    values: np.ndarray,
    prompt: Int[np.ndarray, " value"],
    n_a: Int[np.ndarray, " prompt"],
    n_permutations: int,
    seed: int,
) -> Float[np.ndarray, " permutation"]:
    """The mean over prompts of (mean of a - mean of b), for labels permuted within prompts.

    A permutation sorts by (prompt, random key): the first n_a values of each prompt's stretch are its group a.
    """
    rng = np.random.default_rng(seed)
    sizes = np.bincount(prompt)
    place = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    many_a, size = np.repeat(n_a, sizes), np.repeat(sizes, sizes)
    weight = np.where(place < many_a, 1 / np.maximum(many_a, 1), -1 / np.maximum(size - many_a, 1)) / len(sizes)
    found = np.empty(n_permutations)
    for start in range(0, n_permutations, BATCH):
        n = min(BATCH, n_permutations - start)
        order = np.argsort(prompt + rng.random((n, len(values))), axis=1)
        found[start : start + n] = values[order] @ weight
    return found


def p_value(observed: float, found: Float[np.ndarray, " permutation"]) -> float:
    """Two-sided, the observed labels counted; ties by rounding count as reached."""
    slack = 1e-9 * max(abs(observed), float(np.abs(found).max(initial=0)))
    return float(1 + (np.abs(found) >= abs(observed) - slack).sum()) / (1 + len(found))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and does not count."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    known = int(np.isfinite(p).sum())
    out = np.full(len(p), np.nan)
    steps = p[order[:known]] * (known - np.arange(known))
    out[order[:known]] = np.minimum(1, np.maximum.accumulate(steps)) if known else steps
    return out.tolist()


def _prompt_means(values: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    index = np.unique(prompt, return_inverse=True)[1]
    return np.bincount(index, values) / np.bincount(index) if len(values) else np.empty(0)


def _interval(sides: Sequence[np.ndarray], seed: int, n_draws: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of mean(first) - mean(second, if any), drawing prompts with replacement."""
    if min(len(side) for side in sides) < 2:
        return np.nan, np.nan
    rng = np.random.default_rng([seed, 1])
    means = [side[rng.integers(0, len(side), (n_draws, len(side)))].mean(axis=1) for side in sides]
    low, high = np.quantile(means[0] - (means[1] if len(means) > 1 else 0), [0.025, 0.975])
    return float(low), float(high)


def _ratio(value: float, spread: float) -> float:
    return float(value / spread) if spread > 0 else np.nan
