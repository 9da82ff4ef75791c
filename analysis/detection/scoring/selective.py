"""Answering only where a detector is sure: the risk of what is kept, by how much is kept; knows arrays."""

import numpy as np

from .scores import ONE_CLASS, Score, Told, counts

RISK = 0.05
GRID = 100
"""Coverages of a stored curve: 1 %, 2 %, ... 100 %."""


def curve(told: Told) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage, risk (share of false labels among the kept) and the score from which is kept.

    A sequence's score is its mean over repeats. Sequences of equal score are kept in the order of shares: of a stretch
    of ties each part has the stretch's own risk.
    """
    score, labels = told.probability.mean(axis=0), told.labels[0]
    order = np.argsort(-score, kind="stable")
    kept, wrong = _kept_and_wrong(score[order], labels[order], np.ones((1, len(score))))
    coverage = np.arange(1, GRID + 1) / GRID
    n = coverage * len(score)
    risk = np.interp(n, np.concatenate([[0], kept[0]]), np.concatenate([[0], wrong[0]])) / n
    threshold = score[order][np.minimum(np.ceil(n - 1e-9).astype(int) - 1, len(score) - 1)]
    return coverage, risk, threshold


def summaries(told: Told) -> dict[str, Score]:
    """Area under the curve (mean risk over coverages), what it is below random abstention, coverage at 5 % risk."""
    labels = told.labels[0]
    if labels.all() or not labels.any():
        nothing = Score(np.nan, np.empty(0), ONE_CLASS)
        return dict.fromkeys(("risk_area", "risk_area_gain", "coverage_at_5_risk"), nothing)
    score = told.probability.mean(axis=0)
    order = np.argsort(-score, kind="stable")
    weight = counts(told.n_prompts)[:, told.prompt[order]]
    kept, wrong = _kept_and_wrong(score[order], labels[order], weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        risk = np.where(kept > 0, wrong / kept, 0.0)
    share = np.diff(kept, axis=1, prepend=0) / kept[:, -1:]
    area = (share * risk).sum(axis=1)
    coverage = np.where(risk <= RISK, kept / kept[:, -1:], 0.0).max(axis=1)
    made = {"risk_area": area, "risk_area_gain": risk[:, -1] - area, "coverage_at_5_risk": coverage}
    return {name: Score(float(values[0]), values[1:]) for name, values in made.items()}


def _kept_and_wrong(score: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every draw how many are kept down to each distinct score, and how many of these are wrong."""
    last = np.flatnonzero(np.diff(score, append=np.nan))
    return np.cumsum(weight, axis=1)[:, last], np.cumsum(weight * ~labels, axis=1)[:, last]
