"""Clusters of vectors, how many there are, and how two groupings agree; knows arrays."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

Method = Literal["kmeans", "agglomerative", "hdbscan"]
METHODS = get_args(Method)
SEED, STARTS = 42, 10
MOST = 8
"""Largest number of clusters that a silhouette is asked about."""
CLEAR = 0.1
"""A best silhouette below it means one cluster."""
ROUNDING = 1e-9
FEW = "fewer than 3 different solutions"


@dataclass(frozen=True)
class Clusters:
    """A clustering: -1 is noise; NaN silhouette where there is one cluster."""

    k: int
    cluster: Int[np.ndarray, " vector"]
    """0 is the largest."""
    silhouette: float
    representative: Int[np.ndarray, " cluster"]
    """The vector nearest to each centroid."""
    centroid_distance: Float[np.ndarray, " vector"]


def cluster(vectors: Float[np.ndarray, "vector dim"], method: Method, k: int | None = None) -> Clusters:
    """Cluster into k, or into as many as the best silhouette says (HDBSCAN finds its own number)."""
    if method == "hdbscan":
        return _described(vectors, _hdbscan(vectors) if len(vectors) > 1 else np.zeros(1, np.int64))
    if k is not None:
        return _described(vectors, _labels(vectors, method, k) if k > 1 else np.zeros(len(vectors), np.int64))
    best: tuple[float, np.ndarray] = (CLEAR, np.zeros(len(vectors), np.int64))
    for n in range(2, min(MOST, len(vectors) - 1) + 1):
        labels = _labels(vectors, method, n)
        clear = silhouette(vectors, labels)
        if clear > best[0]:
            best = (clear, labels)
    return _described(vectors, best[1])


def silhouette(vectors: Float[np.ndarray, "vector dim"], labels: Int[np.ndarray, " vector"]) -> float:
    """Mean silhouette of what is no noise; NaN for one cluster, or where each vector has its own."""
    from sklearn.metrics import silhouette_score

    kept = labels >= 0
    n = len(np.unique(labels[kept]))
    if n < 2 or n >= int(kept.sum()):
        return np.nan
    return float(silhouette_score(vectors[kept], labels[kept]))


def agreement(a: Sequence[object], b: Sequence[object]) -> float:
    """Adjusted Rand index of two groupings."""
    from sklearn.metrics import adjusted_rand_score

    codes = [np.unique([str(one) for one in side], return_inverse=True)[1] for side in (a, b)]
    return float(adjusted_rand_score(codes[0], codes[1]))


def principal_plane(vectors: Float[np.ndarray, "vector dim"]) -> Float[np.ndarray, "vector 2"]:
    """The first two principal components; zero where there is no second one."""
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(vectors), 2))
    n = min(2, int((sizes > ROUNDING * sizes[0]).sum()))  # what is smaller is rounding, not a component
    plane[:, :n] = left[:, :n] * sizes[:n]
    # The sign of a component is arbitrary: the farthest vector is on the positive side.
    far = np.abs(plane).argmax(axis=0)
    return plane * np.where(plane[far, [0, 1]] < 0, -1, 1)


def _labels(vectors: np.ndarray, method: Method, k: int) -> np.ndarray:
    if method == "agglomerative":
        from sklearn.cluster import AgglomerativeClustering

        return AgglomerativeClustering(k, metric="cosine", linkage="average").fit_predict(vectors)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():  # fewer different vectors than k: found in the labels
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(k, random_state=SEED, n_init=STARTS).fit_predict(vectors)  # pyright: ignore[reportArgumentType]


def _hdbscan(vectors: np.ndarray) -> np.ndarray:
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(min_cluster_size=2, copy=True).fit_predict(vectors)  # pyright: ignore[reportArgumentType]


def _described(vectors: np.ndarray, labels: np.ndarray) -> Clusters:
    """The clusters by falling size (then by their first vector), with their representatives."""
    names = [name for name in np.unique(labels) if name >= 0]
    names.sort(key=lambda name: (-int((labels == name).sum()), int(np.flatnonzero(labels == name)[0])))
    numbered = np.full(len(labels), -1, np.int64)
    distance = np.full(len(labels), np.nan)
    nearest = []
    for number, name in enumerate(names):
        members = np.flatnonzero(labels == name)
        numbered[members] = number
        distance[members] = np.linalg.norm(vectors[members] - vectors[members].mean(axis=0), axis=1)
        nearest.append(members[int(np.argmin(distance[members]))])
    return Clusters(len(names), numbered, silhouette(vectors, numbered), np.array(nearest, np.int64), distance)
