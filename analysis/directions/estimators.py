"""Directions from labelled states: the difference of means, logistic regression, linear discriminant; knows arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

METHODS = ("mean-difference", "logistic", "lda")
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C (inverse L2 strength, on scaled states) that the logistic regression chooses from."""
ITERATIONS = 2_000

Matrix = Float[np.ndarray, "sequence dim"]
Labels = Bool[np.ndarray, " sequence"]


@dataclass(frozen=True)
class Fit:
    """A direction in the space of the states as they were given, with its own length."""

    vector: Float[np.ndarray, " dim"]
    threshold: float
    """Midpoint of both classes' mean projections."""
    gap: float
    """Mean projection of the true class less that of the false one."""
    strength: float | None = None
    """C of a logistic regression."""

    def margins(self, states: Matrix) -> Float[np.ndarray, " sequence"]:
        """Inner products with the vector, less the threshold."""
        return states @ self.vector - self.threshold


def fit(
    method: str, states: Matrix, labels: Labels, group: Int[np.ndarray, " sequence"], strength: float | None = None
) -> Fit:
    """The direction by one of `METHODS`.

    `group` says which sequences must stay together in the search for C, which there is none of if `strength` is given.
    """
    if method == "mean-difference":
        vector = states[labels].mean(axis=0) - states[~labels].mean(axis=0)
    else:
        centre, scale = _scaling(states)
        scaled = (states - centre) / scale
        if method == "lda":
            coefficients = _lda(scaled, labels)
        else:
            strength = strength or best_strength(scaled, labels, group)
            coefficients = _logistic(scaled, labels, strength)[0]
        vector = coefficients / scale
    projected = states @ vector
    right, wrong = projected[labels].mean(), projected[~labels].mean()
    return Fit(vector, float(right + wrong) / 2, float(right - wrong), strength)


def unit_length(states: Matrix) -> Matrix:
    """The states scaled to length 1; zero vectors stay as they are."""
    length = np.linalg.norm(states, axis=1, keepdims=True)
    return states / np.where(length > 0, length, 1)


def both(labels: Labels) -> bool:
    """Whether both classes are there."""
    return bool(labels.any() and not labels.all())


def _scaling(states: Matrix) -> tuple[np.ndarray, np.ndarray]:
    scale = states.std(axis=0)
    return states.mean(axis=0), np.where(scale > 0, scale, 1)


def _lda(scaled: Matrix, labels: Labels) -> Float[np.ndarray, " dim"]:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(scaled, labels).coef_[0]


def _logistic(scaled: Matrix, labels: Labels, strength: float) -> tuple[Float[np.ndarray, " dim"], float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(scaled, labels)
    return model.coef_[0], float(model.intercept_[0])


def best_strength(
    scaled: Matrix, labels: Labels, group: Int[np.ndarray, " sequence"], strengths: Sequence[float] = STRENGTHS
) -> float:
    """The C with the smallest mean log loss over groups held out one after the other; the smallest C if none can be."""
    loss = np.zeros(len(strengths))
    for held in np.unique(group):
        inside, outside = group != held, group == held
        if not both(labels[inside]):
            continue
        for place, strength in enumerate(strengths):
            weights, intercept = _logistic(scaled[inside], labels[inside], strength)
            margin = scaled[outside] @ weights + intercept
            loss[place] += np.logaddexp(0, np.where(labels[outside], -margin, margin)).sum()
    return strengths[int(np.argmin(loss))]
