"""How well probabilities tell labels, with 95 % intervals that draw prompts; knows arrays.

Only sequences of one fold are compared, because detectors of different folds have different scales; repeats are
averaged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from ...intervals import drawn_counts

BINS = 10
FITTED_HERE = 2**0.5
"""In cross-validation a prompt counts twice: it is told, and it trains what tells the others.

Draws of prompts see the first only. On labels of chance the sum over pairs is symmetric in both roles, so its variance
is twice what the draws give (200 repeats: intervals cover 0.5 in 84 % without this factor). On strong signals, where
detectors hardly depend on single prompts, the intervals are wider than they need be.
"""
SINGLE = "one sample per prompt: no pair of a right and a wrong sample"
NO_PAIR = "no prompt has both a right and a wrong sample"
ONE_CLASS = "one class only"
Draws = Float[np.ndarray, " draw"]


@dataclass(frozen=True)
class Told:
    """What detectors say of sequences that they have not seen."""

    probability: Float[np.ndarray, "repeat sequence"]
    labels: Bool[np.ndarray, "repeat sequence"]
    """The same in every repeat, unless labels were shuffled."""
    prompt: Int[np.ndarray, " sequence"]
    """From 0, without a hole."""
    fold: Int[np.ndarray, "repeat sequence"]
    spread: float = 1.0
    """How far draws of both AUROCs are moved from their value: `FITTED_HERE` if these prompts trained detectors too."""

    @property
    def n_prompts(self) -> int:
        """Prompts that the sequences belong to."""
        return int(self.prompt.max()) + 1

    def part(self, chosen: Bool[np.ndarray, " sequence"]) -> "Told":
        """Some sequences."""
        prompt = np.unique(self.prompt[chosen], return_inverse=True)[1]
        return Told(self.probability[:, chosen], self.labels[:, chosen], prompt, self.fold[:, chosen], self.spread)


@dataclass(frozen=True)
class Score:
    """A number, and what it is in draws of prompts; NaN and a reason where there is none."""

    value: float
    draws: Draws
    reason: str | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval; NaN where draws say nothing."""
        known = self.draws[np.isfinite(self.draws)]
        if not len(known):
            return np.nan, np.nan
        low, high = np.quantile(known, [0.025, 0.975])
        return float(low), float(high)


@lru_cache(maxsize=2)
def counts(n_prompts: int) -> Float[np.ndarray, "draw prompt"]:
    """How often each prompt is drawn; the first row is every prompt once."""
    if n_prompts < 2:
        return np.ones((1, n_prompts))
    drawn = np.concatenate(list(drawn_counts(n_prompts)))
    return np.concatenate([np.ones((1, n_prompts)), drawn]).astype(np.float64)


def auroc(told: Told) -> Score:
    """Share of (true, false) pairs of one fold in the right order, ties half."""
    n = told.n_prompts
    right_order, pairs = np.zeros((n, n)), np.zeros((n, n))
    for probability, labels, fold in zip(told.probability, told.labels, told.fold, strict=True):
        for number in np.unique(fold):
            true, false = (np.flatnonzero((fold == number) & side) for side in (labels, ~labels))
            won = _won(probability[true], probability[false])
            cells = told.prompt[true][:, None] * n + told.prompt[false][None, :]
            right_order += np.bincount(cells.ravel(), won.ravel(), n * n).reshape(n, n)
            pairs += np.bincount(cells.ravel(), minlength=n * n).reshape(n, n)
    drawn = counts(n)
    above, below = (((drawn @ cells) * drawn).sum(axis=1) for cells in (right_order, pairs))
    return _spread(_ratio(above, below, ONE_CLASS), told.spread)


def within_prompt_auroc(told: Told) -> Score:
    """The same over pairs of one prompt: what is left once the prompt's difficulty is taken out."""
    n = told.n_prompts
    right_order, pairs = np.zeros(n), np.zeros(n)
    order = np.argsort(told.prompt, kind="stable")
    starts = np.searchsorted(told.prompt[order], np.arange(n + 1))
    for probability, labels in zip(told.probability, told.labels, strict=True):
        for prompt in range(n):
            members = order[starts[prompt] : starts[prompt + 1]]
            true, false = members[labels[members]], members[~labels[members]]
            right_order[prompt] += _won(probability[true], probability[false]).sum()
            pairs[prompt] += len(true) * len(false)
    drawn = counts(n)
    single = int(np.diff(starts).max(initial=0)) < 2
    return _spread(_ratio(drawn @ right_order, drawn @ pairs, SINGLE if single else NO_PAIR), told.spread)


def _won(true: np.ndarray, false: np.ndarray) -> Float[np.ndarray, "true false"]:
    return (true[:, None] > false) + 0.5 * (true[:, None] == false)


def auprc(told: Told) -> Score:
    """Mean precision over the true labels (average precision), all folds in one ranking; mean over repeats."""
    drawn = counts(told.n_prompts)
    values = np.zeros(len(drawn))
    for probability, labels in zip(told.probability, told.labels, strict=True):
        order = np.argsort(-probability, kind="stable")
        last = np.flatnonzero(np.diff(probability[order], append=np.nan))  # ends of stretches of equal scores
        weight = drawn[:, told.prompt[order]]
        kept = np.cumsum(weight, axis=1)[:, last]
        true = np.cumsum(weight * labels[order], axis=1)[:, last]
        with np.errstate(divide="ignore", invalid="ignore"):
            values += (np.diff(true, axis=1, prepend=0) * np.nan_to_num(true / kept)).sum(axis=1) / true[:, -1]
    return _averaged(values, told)


def brier(told: Told) -> Score:
    """Mean squared difference of probability and label."""
    drawn, n = counts(told.n_prompts), told.n_prompts
    error = np.square(told.probability - told.labels).mean(axis=0)
    return _ratio(drawn @ np.bincount(told.prompt, error, n), drawn @ np.bincount(told.prompt, minlength=n), ONE_CLASS)


def calibration(told: Told) -> Score:
    """Mean over ten equal bins, by their size, of |mean probability - share of true labels|; mean over repeats."""
    drawn, n = counts(told.n_prompts), told.n_prompts
    size = drawn @ np.bincount(told.prompt, minlength=n)
    values = np.zeros(len(drawn))
    for probability, labels in zip(told.probability, told.labels, strict=True):
        cell = told.prompt * BINS + bin_of(probability)
        gap = np.bincount(cell, probability - labels, n * BINS).reshape(n, BINS)
        values += np.abs(drawn @ gap).sum(axis=1) / size
    return _averaged(values, told)


def bin_of(probability: np.ndarray) -> Int[np.ndarray, "..."]:
    """The tenth that a probability lies in."""
    return np.minimum((probability * BINS).astype(np.int64), BINS - 1)


def _averaged(sums: np.ndarray, told: Told) -> Score:
    values = sums / len(told.probability)
    if told.labels.all() or not told.labels.any():
        return Score(np.nan, np.empty(0), ONE_CLASS)
    return Score(float(values[0]), values[1:])


def _spread(score: Score, factor: float) -> Score:
    return replace(score, draws=score.value + factor * (score.draws - score.value)) if factor != 1 else score


def _ratio(above: np.ndarray, below: np.ndarray, reason: str) -> Score:
    with np.errstate(divide="ignore", invalid="ignore"):
        values = above / below
    if not below[0]:
        return Score(np.nan, np.empty(0), reason)
    return Score(float(values[0]), values[1:])


SCORES: Mapping[str, Callable[[Told], Score]] = {
    "auroc": auroc, "within_prompt_auroc": within_prompt_auroc, "auprc": auprc, "brier": brier, "ece": calibration,
}  # fmt: skip


@dataclass(frozen=True)
class Gain:
    """What one score has over another of the same prompts, with a p-value from the same draws."""

    value: float
    low: float
    high: float
    p: float


def gain(with_signal: Score, without: Score) -> Gain:
    """The paired difference; p is twice the smaller share of draws on either side of 0."""
    difference = with_signal.draws - without.draws
    difference = difference[np.isfinite(difference)]
    value = with_signal.value - without.value
    if not np.isfinite(value) or not len(difference):
        return Gain(np.nan, np.nan, np.nan, np.nan)
    low, high = np.quantile(difference, [0.025, 0.975])
    tail = min((difference <= 0).mean(), (difference >= 0).mean())
    return Gain(value, float(low), float(high), float(min(1.0, max(2 * tail, 1 / len(difference)))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values; NaN stays NaN and counts for nothing."""
    known = [n for n, p in enumerate(p_values) if np.isfinite(p)]
    adjusted, largest = [np.nan] * len(p_values), 0.0
    for place, n in enumerate(sorted(known, key=lambda n: p_values[n])):
        largest = max(largest, min(1.0, (len(known) - place) * p_values[n]))
        adjusted[n] = largest
    return adjusted
