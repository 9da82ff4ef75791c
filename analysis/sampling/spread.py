"""How far vectors of one problem's samples spread: trace of the covariance, its parts, cosines; knows arrays."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ..intervals import jackknife_error

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


def spread(
    vectors: Float[np.ndarray, "sample dim"], group: Int[np.ndarray, " sample"] | None = None, *, greedy: bool = False
) -> Spread:
    """The spread, and its part between groups (any whole numbers) if they are given."""
    n = len(vectors)
    if greedy and n == 1:
        return Spread(1, 0.0, np.nan if group is None else 0.0, 0.0, 1.0, np.nan, GREEDY)
    if n < 2:
        return Spread(n, reason=FEW)
    vectors = vectors.astype(np.float64)
    centred = vectors - vectors.mean(axis=0)
    squares = np.square(centred).sum(axis=1)
    total = squares.sum()
    length = np.linalg.norm(vectors, axis=1)
    mean_square = np.square(length).mean()
    relative = total / (n - 1) / mean_square if mean_square > 0 else np.nan
    reasons = [] if mean_square > 0 else ["all vectors are zero"]
    cosine = np.nan
    if (length > 0).all():
        cosine = (np.square((vectors / length[:, None]).sum(axis=0)).sum() - n) / (n * (n - 1))
    else:
        reasons.append(ZERO)
    error = np.nan
    if n > 2:  # the sum of squares without sample i
        error = jackknife_error((total - n / (n - 1) * squares) / (n - 2))
    else:
        reasons.append("se_tr_cov: fewer than three samples")
    between = np.nan if group is None else _between(centred, group) / (n - 1)
    return Spread(
        n, float(total / (n - 1)), float(between), float(relative), float(cosine), float(error),
        "; ".join(reasons) or None,
    )  # fmt: skip


def _between(centred: np.ndarray, group: np.ndarray) -> float:
    """Sum of squares of the groups' means, each as often as it has samples."""
    codes, index = np.unique(group, return_inverse=True)
    counts = np.bincount(index)
    sums = np.zeros((len(codes), centred.shape[1]))
    np.add.at(sums, index, centred)
    return float((np.square(sums).sum(axis=1) / counts).sum())
