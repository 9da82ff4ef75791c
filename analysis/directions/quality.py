"""How well scores tell labels: area under the ROC curve with an interval over problems, accuracy, calibration."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ..intervals import ONE_PROMPT, drawn_counts
from .estimators import both
from .held_out import Told

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


def quality(told: Told, labels: Bool[np.ndarray, " sequence"], prompt: Int[np.ndarray, " sequence"]) -> Quality:
    """The quality of the sequences that were scored; `prompt` are any whole numbers, equal for equal problems."""
    known = np.isfinite(told.score)
    labels, score = labels[known], told.score[known]
    index = np.unique(prompt[known], return_inverse=True)[1]
    n_prompts = int(index.max()) + 1 if len(index) else 0
    counts = (len(labels), n_prompts)
    if not len(labels):
        return Quality(*counts, reason="the training folds lack a class")
    accuracy = float((told.called[known] == labels).mean())
    errors = [calibration_error(values[known], labels) for values in (told.probability, told.calibrated)]
    if not both(labels):
        return Quality(*counts, accuracy=accuracy, ece_before=errors[0], ece_after=errors[1], reason="one class only")
    found = float(weighted_auroc(score, labels, np.ones((1, len(labels))))[0])
    if n_prompts < 2:
        return Quality(*counts, found, np.nan, np.nan, accuracy, *errors, reason=f"no interval: {ONE_PROMPT}")
    draws = np.concatenate([weighted_auroc(score, labels, c[:, index]) for c in drawn_counts(n_prompts)])
    draws = draws[np.isfinite(draws)]  # a draw may hold one class only
    low, high = np.quantile(draws, [0.025, 0.975])
    return Quality(*counts, found, float(low), float(high), accuracy, *errors)


def weighted_auroc(
    score: Float[np.ndarray, " sequence"],
    labels: Bool[np.ndarray, " sequence"],
    weight: Float[np.ndarray, "draw sequence"],
) -> Float[np.ndarray, " draw"]:
    """Share of (true, false) pairs in the right order, ties half, for each weighting; NaN where a class has none."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    right = np.add.reduceat(np.where(labels[order], weight[:, order], 0.0), starts, axis=1)
    wrong = np.add.reduceat(np.where(labels[order], 0.0, weight[:, order]), starts, axis=1)
    below = np.cumsum(wrong, axis=1) - wrong / 2
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
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
