"""Persistent homology of one path (Vietoris-Rips, Euclidean, Ripser), and the null that loops are judged against.

The persistence of a point set does not know the order of its points, so shuffling them changes nothing. The null is
made of what has an order: the steps. They are put in random order and added up from the first point. Such a path has
the same beginning, the same end and the same steps; what it lacks is the order in which they were taken. If that order
is arbitrary (the steps are exchangeable), observed and null paths have one distribution, and the share of paths with at
least as many loops, the observed one counted, is an exact p-value.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "point dim"]
Pairs = Float[np.ndarray, "pair 2"]


@dataclass(frozen=True)
class Diagram:
    """Birth and death of every component and loop, and the landmarks that stood for the points."""

    components: Pairs
    loops: Pairs
    n_points: int
    n_landmarks: int
    cover_radius: float

    def pairs(self, dimension: int) -> Pairs:
        """The pairs of one dimension, the longest-lived first; the component that never dies has death infinity."""
        found = self.components if dimension == 0 else self.loops
        order = np.argsort(found[:, 0] - found[:, 1], kind="stable")
        return found[order]


def diagram(points: Points, max_points: int) -> Diagram:
    """The diagram of a path; with more than `max_points` points, of that many landmarks, chosen farthest first."""
    from ripser import ripser
    from scipy.spatial.distance import pdist, squareform

    n, exact = len(points), np.asarray(points, np.float64)
    if n <= max_points:
        # Ripser's own distances are off by 1e-8 for points that are equal: they would live for that long.
        found = ripser(squareform(pdist(exact)), distance_matrix=True, maxdim=1)
        return Diagram(found["dgms"][0], found["dgms"][1], n, n, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "more columns than rows": a path is shorter than its vectors are wide
        found = ripser(exact, maxdim=1, n_perm=max_points)
    return Diagram(found["dgms"][0], found["dgms"][1], n, max_points, float(found["r_cover"]))


@dataclass(frozen=True)
class Numbers:
    """A diagram's finite pairs of one dimension in numbers; NaN where there is no pair."""

    n_pairs: int
    n_long: int
    max_persistence: float
    total_persistence: float
    entropy_bits: float


def numbers(pairs: Pairs, min_persistence: float) -> Numbers:
    """Count, longest, sum and entropy of the persistences; `n_long` have at least `min_persistence`."""
    lives = (pairs[:, 1] - pairs[:, 0]).astype(np.float64)
    lives = lives[np.isfinite(lives)]
    sum_of_lives = float(lives.sum())
    if not len(lives):
        return Numbers(0, 0, np.nan, 0.0, np.nan)
    shares = lives[lives > 0] / sum_of_lives if sum_of_lives > 0 else np.empty(0)
    entropy = float(-(shares * np.log2(shares)).sum()) if len(shares) else np.nan
    return Numbers(len(lives), int((lives >= min_persistence).sum()), float(lives.max()), sum_of_lives, entropy)


def permuted_paths(points: Points, n_paths: int, seed: int) -> Iterator[Points]:
    """Paths of the null: the same first point and the same steps, in random order."""
    rng = np.random.default_rng(seed)
    steps = np.diff(points, axis=0)
    for _ in range(n_paths):
        walk = np.cumsum(steps[rng.permutation(len(steps))], axis=0)
        yield np.concatenate([points[:1], points[:1] + walk])


@dataclass(frozen=True)
class Chance:
    """What the null says of the loops of one path."""

    mean_loops: float
    mean_max_persistence: float
    p_loops: float
    p_max_persistence: float


def chance(
    points: Points, observed: Numbers, *, n_paths: int, min_persistence: float, max_points: int, seed: int
) -> Chance:
    """The loops of `n_paths` null paths, and the p-values (one-sided, the observed path counted)."""
    loops, longest = np.zeros(n_paths), np.zeros(n_paths)
    for i, path in enumerate(permuted_paths(points, n_paths, seed)):
        found = numbers(diagram(path, max_points).loops, min_persistence)
        loops[i], longest[i] = found.n_long, np.nan_to_num(found.max_persistence)
    as_many = int((loops >= observed.n_long).sum())
    # A null path without any loop has persistence 0, as the observed one has then.
    as_long = int((longest >= np.nan_to_num(observed.max_persistence)).sum())
    return Chance(
        float(loops.mean()), float(longest.mean()), (1 + as_many) / (1 + n_paths), (1 + as_long) / (1 + n_paths)
    )
