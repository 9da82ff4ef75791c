"""How far vectors of one problem's samples spread: trace of the covariance, its parts, cosines; knows arrays."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ..intervals import jackknife_errors

FEW, ZERO, GREEDY = "fewer than two samples", "a zero vector has no cosine", "greedy"


@dataclass(frozen=True)
class Spread:
    """The spread of one set of vectors; NaN and a reason where it has none."""

    n: int
    tr_cov: float = np.nan
    tr_cov_between: float = np.nan
    relative_variance: float = np.nan
    mean_pairwise_cosine: float = np.nan
    se_tr_cov: float = np.nan
    reason: str | None = None


def spreads(
    vectors: Float[np.ndarray, "set sample dim"],
    groups: Int[np.ndarray, "set sample"] | None = None,
    *,
    greedy: bool = False,
) -> list[Spread]:
    """The spreads of several sets of as many vectors, and their parts between groups (any whole numbers) if given."""
    n_sets, n, _ = vectors.shape
    if greedy and n == 1:
        return [Spread(1, 0.0, np.nan if groups is None else 0.0, 0.0, 1.0, np.nan, GREEDY)] * n_sets
    if n < 2:
        return [Spread(n, reason=FEW)] * n_sets
    vectors = vectors.astype(np.float64, copy=False)
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    squares = np.einsum("snd,snd->sn", centred, centred)
    total = squares.sum(axis=1)
    square_lengths = np.einsum("snd,snd->sn", vectors, vectors)
    mean_square = square_lengths.mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(mean_square > 0, total / (n - 1) / mean_square, np.nan)
        directions = np.einsum("snd,sn->sd", vectors, 1 / np.sqrt(square_lengths))
    cosine = (np.square(directions).sum(axis=1) - n) / (n * (n - 1))
    error = np.full(n_sets, np.nan)
    if n > 2:  # the sum of squares without sample i
        error = jackknife_errors((total[:, None] - n / (n - 1) * squares) / (n - 2))
    reasons = [
        ["all vectors are zero"] * int(lengths.max() == 0)
        + [ZERO] * int(lengths.min() == 0)
        + ["se_tr_cov: fewer than three samples"] * int(n < 3)
        for lengths in square_lengths
    ]
    return [
        Spread(
            n, float(total[i] / (n - 1)),
            np.nan if groups is None else _between(centred[i], groups[i]) / (n - 1),
            float(relative[i]), np.nan if ZERO in reasons[i] else float(cosine[i]), float(error[i]),
            "; ".join(reasons[i]) or None,
        )
        for i in range(n_sets)
    ]  # fmt: skip


def _between(centred: np.ndarray, group: np.ndarray) -> float:
    """Sum of squares of the groups' means, each as often as it has samples."""
    codes, index = np.unique(group, return_inverse=True)
    counts = np.bincount(index)
    sums = np.zeros((len(codes), centred.shape[1]))
    np.add.at(sums, index, centred)
    return float((np.square(sums).sum(axis=1) / counts).sum())
