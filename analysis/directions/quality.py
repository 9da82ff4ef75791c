"""How well scores tell labels: area under the ROC curve with an interval over problems, accuracy, calibration."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ..intervals import DRAWS, ONE_PROMPT, drawn_counts
from .held_out import SHUFFLES, Told

BINS = 10


@dataclass(frozen=True)
class Quality:
    """Numbers of one fold or of all; NaN and a reason where there are none."""

    n: int
    n_prompts: int
    auroc: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    accuracy: float = np.nan
    ece_before: float = np.nan
    ece_after: float = np.nan
    reason: str | None = None


def quality(
    told: Told,
    labels: Bool[np.ndarray, " sequence"],
    prompt: Int[np.ndarray, " sequence"],
    fold: Int[np.ndarray, " sequence"],
) -> Quality:
    """The quality of the sequences that were scored; `prompt` are any whole numbers, equal for equal problems.

    Fits of different folds are different directions, so only pairs within a fold are compared.
    """
    known = np.isfinite(told.score)
    labels, score, fold = labels[known], told.score[known], fold[known]
    index = np.unique(prompt[known], return_inverse=True)[1]
    n_prompts = int(index.max()) + 1 if len(index) else 0
    counts = (len(labels), n_prompts)
    if not len(labels):
        return Quality(*counts, reason="the training folds lack a class")
    accuracy = float((told.called[known] == labels).mean())
    before, after = (calibration_error(values[known], labels) for values in (told.probability, told.calibrated))
    found = float(weighted_auroc(score, labels, fold, np.ones((1, len(labels))))[0])
    if not np.isfinite(found):
        return Quality(*counts, accuracy=accuracy, ece_before=before, ece_after=after, reason="one class only")
    if n_prompts < 2:
        return Quality(*counts, found, np.nan, np.nan, accuracy, before, after, reason=f"no interval: {ONE_PROMPT}")
    draws = np.concatenate([weighted_auroc(score, labels, fold, c[:, index]) for c in drawn_counts(n_prompts)])
    draws = draws[np.isfinite(draws)]  # a draw may hold one class only
    low, high = np.quantile(draws, [0.025, 0.975])
    return Quality(*counts, found, float(low), float(high), accuracy, before, after)


def control(
    told: Iterable[tuple[np.ndarray, np.ndarray]],
    prompt: Int[np.ndarray, " sequence"],
    fold: Int[np.ndarray, " sequence"],
) -> Quality:
    """The mean quality of shuffled labels and margins; its interval holds what one order of labels gives by chance.

    Each order has its share of the draws, so the interval is as wide as chance and problems together make it.
    """
    index = np.unique(prompt, return_inverse=True)[1]
    n_prompts = int(index.max()) + 1
    found, accuracy, draws = [], [], []
    for labels, margin in told:
        known = np.isfinite(margin)
        these = (margin[known], labels[known], fold[known])
        found.append(float(weighted_auroc(*these, np.ones((1, int(known.sum()))))[0]))
        accuracy.append(float(((margin > 0) == labels)[known].mean()))
        counts = drawn_counts(n_prompts, DRAWS // SHUFFLES)
        draws += [weighted_auroc(*these, c[:, index[known]]) for c in counts]
    drawn = np.concatenate(draws)
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(found).any() or not len(drawn):
        return Quality(len(prompt), n_prompts, reason="the folds lack a class")
    low, high = np.quantile(drawn, [0.025, 0.975])
    about = "calibration: not measured for shuffled labels"
    mean, share = float(np.nanmean(found)), float(np.mean(accuracy))
    return Quality(len(prompt), n_prompts, mean, float(low), float(high), share, reason=about)


def weighted_auroc(
    score: Float[np.ndarray, " sequence"],
    labels: Bool[np.ndarray, " sequence"],
    fold: Int[np.ndarray, " sequence"],
    weight: Float[np.ndarray, "draw sequence"],
) -> Float[np.ndarray, " draw"]:
    """Share of (true, false) pairs of one fold in the right order, ties half, by weighting; NaN without such pairs."""
    order = np.lexsort((score, fold))
    first = np.diff(fold[order], prepend=-1) != 0
    starts = np.flatnonzero(first | (np.diff(score[order], prepend=-np.inf) != 0))
    right = np.add.reduceat(np.where(labels[order], weight[:, order], 0.0), starts, axis=1)
    wrong = np.add.reduceat(np.where(labels[order], 0.0, weight[:, order]), starts, axis=1)
    folds = np.flatnonzero(first[starts])
    in_fold = np.repeat(np.arange(len(folds)), np.diff(folds, append=len(starts)))
    all_right, all_wrong = (np.add.reduceat(x, folds, axis=1) for x in (right, wrong))
    before = np.cumsum(all_wrong, axis=1) - all_wrong
    below = np.cumsum(wrong, axis=1) - wrong / 2 - before[:, in_fold]
    pairs = (all_right * all_wrong).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (right * below).sum(axis=1) / pairs


def calibration_error(probability: np.ndarray, labels: np.ndarray) -> float:
    """Mean over ten equal bins, by their size, of |mean probability - share of true labels|; NaN without values."""
    known = np.isfinite(probability)
    probability, labels = probability[known], labels[known]
    if not len(labels):
        return np.nan
    place = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(place, probability - labels, BINS)
    return float(np.abs(gaps).sum() / len(labels))
