"""How well a direction tells right from wrong once states were changed, and what that costs, problem by problem."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ...lake.values import Json, Row
from ..directions.held_out import folds
from ..directions.quality import weighted_auroc
from ..intervals import ONE_PROMPT, drawn_counts
from .layer_ablations import change_over_problems

TEST_FOLDS = (0, 1)
"""Of the five folds of problems, those that nothing is fitted on."""
Numbers = Float[np.ndarray, " problem"]


@dataclass(frozen=True)
class Split:
    """Which problems things are fitted on; the others judge."""

    train: Bool[np.ndarray, " problem"]
    words: str


def split_problems(prompt_ids: list[str], splits: list[str | None]) -> Split:
    """By the run's own splits where it has both, else by folds of problems, so that no problem is on both sides."""
    if {"train", "test"} <= set(splits):
        train = np.array([one == "train" for one in splits])
        return Split(train, f"fitted on the split train ({train.sum():,}), judged on the others ({(~train).sum():,})")
    train = ~np.isin(folds(prompt_ids), TEST_FOLDS)
    return Split(
        train,
        f"fitted on three of five folds of problems ({train.sum():,}), judged on the other two ({(~train).sum():,})",
    )


def threshold(projections: Numbers, right: Numbers) -> float:
    """Midpoint of the classes' mean projections; NaN if a class is empty. `right` is 1, 0, or NaN without a label."""
    sides = [projections[right == value] for value in (1.0, 0.0)]
    return float(np.mean([side.mean() for side in sides])) if all(map(len, sides)) else np.nan


def judge_conditions(
    projections: Mapping[str, Numbers], losses: Mapping[str, Numbers], right: Numbers, edge: float, unedited: str
) -> list[Row]:
    """A row per condition: accuracy, AUROC and loss, each against the unedited states of the same problems."""
    known = np.isfinite(right)
    labels = right[known] == 1.0
    whole = projections[unedited][known]
    rows = []
    for name, along in projections.items():
        told = ((along > edge) == (right == 1.0)).astype(np.float64)
        before = ((projections[unedited] > edge) == (right == 1.0)).astype(np.float64)
        told[~known | np.isnan(edge)] = np.nan
        accuracy = change_over_problems(told, before, np.ones(len(told)))
        loss = change_over_problems(losses[name], losses[unedited], np.ones(len(told)))
        rows.append({
            "condition": name, "n_problems": int(known.sum()), "accuracy": accuracy.value,
            "accuracy_change": accuracy.change, "accuracy_ci_low": accuracy.ci_low,
            "accuracy_ci_high": accuracy.ci_high, **_auroc(along[known], whole, labels), "n_tokens": loss.n,
            "loss": loss.value, "loss_change": loss.change, "loss_ci_low": loss.ci_low, "loss_ci_high": loss.ci_high,
            "reason": _reason(labels, edge),
        })  # fmt: skip
    return rows


def _auroc(along: Numbers, whole: Numbers, labels: Bool[np.ndarray, " problem"]) -> dict[str, float]:
    """The area, its change, and the change's interval: both are drawn with the same problems."""
    n = len(labels)
    if not labels.any() or labels.all():
        return {}
    one = np.ones((1, n))
    fold = np.zeros(n, np.int64)
    here, before = (float(weighted_auroc(score, labels, fold, one)[0]) for score in (along, whole))
    draws = np.concatenate([
        weighted_auroc(along, labels, fold, counts) - weighted_auroc(whole, labels, fold, counts)
        for counts in drawn_counts(n)
    ])  # fmt: skip
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return {"auroc": here, "auroc_change": here - before, "auroc_ci_low": float(low), "auroc_ci_high": float(high)}


def _reason(labels: Bool[np.ndarray, " problem"], edge: float) -> str | None:
    if not len(labels):
        return "no labels"
    if np.isnan(edge):
        return "the train split lacks a class"
    if labels.all() or not labels.any():
        return "the test split lacks a class"
    return ONE_PROMPT if len(labels) < 2 else None


def validate(second: Numbers, direct: Numbers, measured: Numbers) -> Json:
    """Predicted beside measured effects of one neuron over problems."""
    mean = change_over_problems(measured, np.zeros(len(measured)), np.ones(len(measured)))
    row: Row = {
        "n_problems": len(measured), "predicted_second_order": float(second.mean()),
        "predicted_direct": float(direct.mean()), "measured": mean.value, "ci_low": mean.ci_low,
        "ci_high": mean.ci_high, "correlation_second_order": _correlation(second, measured),
        "correlation": _correlation(second + direct, measured),
    }  # fmt: skip
    lacking = np.isnan(row["correlation"]) or np.isnan(row["correlation_second_order"])
    return row | {"reason": "no variance" if lacking else None}


def _correlation(a: Numbers, b: Numbers) -> float:
    if len(a) < 3 or not np.ptp(a) > 0 or not np.ptp(b) > 0:
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])
