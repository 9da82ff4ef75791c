"""Pictures of paths in two dimensions: UMAP of each sequence alone, and one plane for all. Seeds are fixed.

Settings of the guide: PCA to max(2, min(32, dim, n - 1)) components, jitter of 1e-6 for at most 64 points, then UMAP
with min(10, max(2, n - 2)) neighbours, Euclidean. UMAP is a picture: its distances have no unit and no common scale.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

SEED = 42
COMPONENTS = 32
NEIGHBOURS = 10
JITTER, JITTER_UP_TO = 1e-6, 64
LEAST_POINTS = 4
"""UMAP's spectral start needs more points than three."""


def reduced(points: Float[np.ndarray, "point dim"]) -> Float[np.ndarray, "point component"]:
    """The points in their first principal components, at most 32; fewer than three, or all alike, as they are."""
    from sklearn.decomposition import PCA

    n, dim = points.shape
    # Points that are one have no components: a decomposition would make distances of its rounding.
    if n < 3 or dim < 2 or (np.isfinite(points).all() and np.ptp(points, axis=0).max() == 0):
        return points
    k = max(2, min(COMPONENTS, dim, n - 1))
    return PCA(n_components=k, random_state=SEED).fit_transform(points)


def plane(points: Float[np.ndarray, "point dim"], neighbours: int = NEIGHBOURS) -> Float[np.ndarray, "point 2"] | None:
    """The points in a UMAP plane of their own; None if there are fewer than four, or if all of them are one."""
    n = len(points)
    if n < LEAST_POINTS or not np.isfinite(points).all() or np.ptp(points, axis=0).max() == 0:
        return None
    return embedded(_jittered(reduced(points)), min(neighbours, max(2, n - 2)))


def shared_plane(points: Float[np.ndarray, "point dim"]) -> Float[np.ndarray, "point 2"] | None:
    """All paths in one UMAP plane, so that they can be compared; neighbours 15, UMAP's own default."""
    return plane(points, neighbours=15)


def embedded(points: Float[np.ndarray, "point dim"], neighbours: int) -> Float[np.ndarray, "point 2"]:
    """UMAP itself."""
    umap = _umap()
    with warnings.catch_warnings():
        # Few points: the spectral start falls back to a random one. Both start from the same seed.
        warnings.simplefilter("ignore")
        model = umap.UMAP(
            n_components=2, n_neighbors=neighbours, metric="euclidean", random_state=SEED, n_jobs=1
        )  # fmt: skip
        with _threads_kept():
            return np.asarray(model.fit_transform(points), np.float64)


def planes(
    points: Float[np.ndarray, "row dim"], starts: Int[np.ndarray, " path"]
) -> tuple[Float[np.ndarray, "row 2"], list[int]]:
    """The UMAP plane of every path alone; NaN for paths that have none, whose indexes come second."""
    out = np.full((len(points), 2), np.nan)
    missing = []
    ends = np.append(starts[1:], len(points))
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        found = plane(points[start:end])
        if found is None:
            missing.append(i)
        else:
            out[start:end] = found
    return out, missing


def _jittered(points: np.ndarray) -> np.ndarray:
    if len(points) > JITTER_UP_TO:
        return points
    return points + JITTER * np.random.default_rng(SEED).standard_normal(points.shape)


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    """Numba sets how many threads OpenMP has, for torch in the same process too: they are set back.

    Where it was numba that loaded OpenMP, to what OMP_NUM_THREADS says: torch, loaded later, would not look at it.
    """
    before = {pool.filepath: pool.num_threads for pool in _openmp()}
    try:
        yield
    finally:
        asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
        for pool in _openmp():
            if pool.filepath in before:
                pool.set_num_threads(before[pool.filepath])
            elif asked.isdecimal() and int(asked) > 0:
                pool.set_num_threads(int(asked))


def _openmp() -> list[Any]:
    """The OpenMP libraries that are loaded."""
    from threadpoolctl import ThreadpoolController

    return [pool for pool in ThreadpoolController().lib_controllers if pool.user_api == "openmp"]


@functools.cache
def _umap() -> Any:
    """The package, with what it compiles kept beside it: compiling anew took each process twenty seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba and TensorFlow notices at import
        import umap
    for function in compiled_functions(umap):
        with contextlib.suppress(RuntimeError):  # no folder that can be written
            function.enable_caching()
    return umap


def compiled_functions(umap: Any) -> list[Any]:
    """What UMAP compiles for a plane, as numba's dispatchers; a name that another version lacks is left out."""
    named = (
        (umap.umap_, "smooth_knn_dist"),
        (umap.umap_, "compute_membership_strengths"),
        (umap.utils, "fast_knn_indices"),
        (umap.layouts, "_nb_optimize_layout_euclidean_single_epoch"),
    )
    found = (getattr(module, name, None) for module, name in named)
    return [function for function in found if hasattr(function, "enable_caching")]
