"""ROC and calibration curves with bands, and permutation importances; knows arrays."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ....lake.values import Row
from ..detectors.models import predict
from ..signals.signal import Block, Signal
from . import scores
from .scores import BINS, Told, counts

if TYPE_CHECKING:
    from ..evaluation import HeldOut

GRID = np.linspace(0, 1, 41)
"""False positive rates at which a ROC curve is stored."""
N_DRAWS = 500
"""Draws of prompts behind a band."""
MOST_COLUMNS = 100
"""Signals of more columns have no importances."""


def all_curves(told: Told) -> list[Row]:
    """Points of both curves: curve, x, y, low, high, n."""
    return [*_roc(told), *_calibration(told)]


def _roc(told: Told) -> list[Row]:
    """Share of true labels above a score by the share of false ones above it, all folds and repeats in one ranking."""
    score, labels = told.probability.ravel(), told.labels.ravel()
    if labels.all() or not labels.any():
        return []
    prompt = np.tile(told.prompt, len(told.probability))
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=np.nan))
    weight = counts(told.n_prompts)[: N_DRAWS + 1][:, prompt[order]]
    true, false = (np.cumsum(weight * side[order], axis=1)[:, last] for side in (labels, ~labels))
    rates = []
    for hit, alarm in zip(true, false, strict=True):
        if hit[-1] and alarm[-1]:
            x, y = np.concatenate([[0], alarm / alarm[-1]]), np.concatenate([[0], hit / hit[-1]])
            rates.append(np.interp(GRID, x, y))
    low, high = np.quantile(rates[1:], [0.025, 0.975], axis=0) if len(rates) > 1 else np.full((2, len(GRID)), np.nan)
    rows = zip(GRID.tolist(), rates[0].tolist(), low.tolist(), high.tolist(), strict=True)
    about = {"curve": "roc", "n": len(told.prompt)}
    return [about | {"place": n, "x": x, "y": y, "low": a, "high": b} for n, (x, y, a, b) in enumerate(rows)]


def _calibration(told: Told) -> list[Row]:
    """Share of true labels by mean probability, in ten bins."""
    place = scores.bin_of(told.probability)
    drawn, n = counts(told.n_prompts)[: N_DRAWS + 1], told.n_prompts
    rows = []
    for number in range(BINS):
        inside = place == number
        if not inside.any():
            continue
        prompt = np.broadcast_to(told.prompt, inside.shape)[inside]
        size = drawn @ np.bincount(prompt, minlength=n)
        true = drawn @ np.bincount(prompt, told.labels[inside], n)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = true / size
        known = share[1:][np.isfinite(share[1:])]
        low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else (np.nan, np.nan)
        rows.append({
            "curve": "calibration", "place": number, "x": float(told.probability[inside].mean()),
            "y": float(share[0]), "low": low, "high": high, "n": round(int(inside.sum()) / len(told.probability)),
        })  # fmt: skip
    return rows


def importances(signal: Signal, made: "HeldOut") -> list[Row]:
    """What the AUROC loses when a column is permuted among the held-out sequences of each fold."""
    if len(signal.blocks) != 1 or not 2 <= len(signal.blocks[0].columns) <= MOST_COLUMNS:
        return []
    block, told = signal.blocks[0], made.told
    whole = scores.auroc(told)
    rows = []
    for column, name in enumerate(block.columns):
        mixed = told.probability.copy()
        for number, (detector, _, outside, repeat) in enumerate(made.detectors):
            if name in detector.columns:
                values = block.values[outside]
                values[:, column] = np.random.default_rng(number).permutation(values[:, column])
                part = Block(block.name, block.columns, values, block.lacking)
                mixed[repeat, outside] = predict(detector, part, np.arange(len(outside)))
        lost = scores.gain(whole, scores.auroc(replace(told, probability=mixed)))
        rows.append({"column": name, "value": lost.value, "ci_low": lost.low, "ci_high": lost.high})
    return rows
