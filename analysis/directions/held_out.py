"""Every sequence scored by a fit that has not seen its problem: five folds, calibration inside them; knows arrays."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from .estimators import Fit, Labels, Matrix, both

FOLDS = 5
SHUFFLES = 10
"""Orders of the labels that make a control: one alone may tell by chance."""
Fitter = Callable[[Matrix, Labels, Int[np.ndarray, " sequence"], float | None], Fit]
"""A fit to states and labels, whose groups stay together, with a known strength or one that it looks for."""


@dataclass(frozen=True)
class Told:
    """What held-out fits say of each sequence; NaN where its fold could not be fitted."""

    score: Float[np.ndarray, " sequence"]
    """Margin over the training classes' gap."""
    called: Float[np.ndarray, " sequence"]
    """1 where the label is called true."""
    probability: Float[np.ndarray, " sequence"]
    """The method's own: the sigmoid of the margin."""
    calibrated: Float[np.ndarray, " sequence"]
    """After Platt scaling fitted in the training folds."""
    fits: tuple[Fit | None, ...]
    """One per fold: fitted on the others."""


def folds(prompt_ids: Sequence[str]) -> Int[np.ndarray, " sequence"]:
    """The fold of each problem: SHA-256 of its id, modulo 5."""
    known = {one: int(hashlib.sha256(one.encode()).hexdigest(), 16) % FOLDS for one in set(prompt_ids)}
    return np.array([known[one] for one in prompt_ids], np.int64)


def tell(states: Matrix, labels: Labels, fold: Int[np.ndarray, " sequence"], fitter: Fitter) -> Told:
    """Score each fold by a fit on the others."""
    n = len(labels)
    score, called, own, platt = (np.full(n, np.nan) for _ in range(4))
    fits: list[Fit | None] = [None] * FOLDS
    for held in range(FOLDS):
        inside, outside = fold != held, fold == held
        if not both(labels[inside]):
            continue
        found = fitter(states[inside], labels[inside], fold[inside], None)
        fits[held] = found
        margin = found.margins(states[outside])
        score[outside] = _scaled(margin, found)
        called[outside] = margin > 0
        own[outside] = _sigmoid(margin)
        curve = _curve(states[inside], labels[inside], fold[inside], fitter, found.strength)
        platt[outside] = curve(score[outside])
    return Told(score, called, own, platt, tuple(fits))


def tell_majority(labels: Labels, fold: Int[np.ndarray, " sequence"]) -> Told:
    """The same for the guess that calls everything what most training labels are."""
    share = np.full(len(labels), np.nan)
    for held in range(FOLDS):
        if (fold != held).any():
            share[fold == held] = labels[fold != held].mean()
    known = np.isfinite(share)
    return Told(np.where(known, 0.0, np.nan), np.where(known, share >= 0.5, np.nan), share, share, (None,) * FOLDS)


def _curve(
    states: Matrix, labels: Labels, fold: np.ndarray, fitter: Fitter, strength: float | None
) -> Callable[[np.ndarray], np.ndarray]:
    """From a score to a probability: a logistic curve over scores that are themselves held out among these folds."""
    from sklearn.linear_model import LogisticRegression

    inner = np.full(len(labels), np.nan)
    for held in np.unique(fold):
        inside, outside = fold != held, fold == held
        if both(labels[inside]):
            found = fitter(states[inside], labels[inside], fold[inside], strength)
            inner[outside] = _scaled(found.margins(states[outside]), found)
    known = np.isfinite(inner)
    if not both(labels[known]):
        return lambda score: np.full(len(score), np.nan)
    curve = LogisticRegression().fit(inner[known][:, None], labels[known])
    return lambda score: curve.predict_proba(score[:, None])[:, 1] if len(score) else score


def _scaled(margin: np.ndarray, found: Fit) -> np.ndarray:
    return margin / found.gap if found.gap > 0 else np.zeros_like(margin)


def _sigmoid(margin: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(margin / 2))


def tell_shuffled(
    states: Matrix,
    labels: Labels,
    fold: Int[np.ndarray, " sequence"],
    fitter: Fitter,
    strengths: Sequence[float | None],
) -> Iterator[tuple[Labels, Float[np.ndarray, " sequence"]]]:
    """Labels in a random order (the same orders every time) and the margins of fits to them, several times.

    `strengths` by fold are those that the true labels chose.
    """
    rng = np.random.default_rng(0)
    for _ in range(SHUFFLES):
        mixed = rng.permutation(labels)
        margin = np.full(len(labels), np.nan)
        for held in range(FOLDS):
            inside, outside = fold != held, fold == held
            if both(mixed[inside]):
                found = fitter(states[inside], mixed[inside], fold[inside], strengths[held])
                margin[outside] = found.margins(states[outside])
        yield mixed, margin
