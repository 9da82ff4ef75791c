"""Vectors as sparse sums of words: orthogonal matching pursuit for many vectors at once, over any number of words.

The library's needs the Gram matrix of all words (20 GB for 50,257); here only that of the words that were taken.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

BLOCK_BYTES = 64 * 2**20
"""Of inner products with words that are alive at one time."""
WHOLE = 1e-12
"""Share of a vector's square below which nothing is left to explain."""


@dataclass(frozen=True)
class SparseSums:
    """By vector, in the order in which words were taken; -1 and NaN where none was needed any more."""

    word: Int[np.ndarray, "vector place"]
    coefficient: Float[np.ndarray, "vector place"]
    """Once all words are taken."""
    explained: Float[np.ndarray, "vector place"]
    """Share of the square that the words up to this one explain."""


def unit_atoms(words: Float[np.ndarray, "word dim"]) -> Float[np.ndarray, "word dim"]:
    """Words less their mean, each at length 1; one that is the mean stays zero and is never taken."""
    centred = words - words.mean(axis=0, dtype=np.float64).astype(words.dtype)
    sizes = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.where(sizes > 0, centred / np.maximum(sizes, np.finfo(words.dtype).tiny), 0).astype(words.dtype)


def pursue(vectors: Float[np.ndarray, "vector dim"], atoms: Float[np.ndarray, "word dim"], n_atoms: int) -> SparseSums:
    """For each vector the word nearest to what is left, then the best sum of all words taken, `n_atoms` times."""
    n, places = len(vectors), min(n_atoms, len(atoms), atoms.shape[1])
    wide = vectors.astype(np.float64)
    whole = np.square(wide).sum(axis=1)
    word = np.full((n, places), -1, np.int64)
    coefficient, explained = np.full((n, places), np.nan), np.full((n, places), np.nan)
    rest, going = wide.copy(), whole > 0
    for place in range(places):
        alive = np.flatnonzero(going)
        if not len(alive):
            break
        best, size = _nearest(rest[alive].astype(atoms.dtype), atoms, word[alive, :place])
        moving = size > 0
        going[alive[~moving]] = False
        alive, best = alive[moving], best[moving]
        word[alive, place] = best
        taken = atoms[word[alive, : place + 1]].astype(np.float64)
        sums = _best_sums(taken, wide[alive])
        coefficient[alive, : place + 1] = sums
        rest[alive] = wide[alive] - np.einsum("vp,vpd->vd", sums, taken)
        left = np.square(rest[alive]).sum(axis=1) / whole[alive]
        explained[alive, place] = 1.0 - left
        going[alive[left < WHOLE]] = False
    return SparseSums(word, coefficient, explained)


def _nearest(
    rest: Float[np.ndarray, "vector dim"], atoms: Float[np.ndarray, "word dim"], taken: Int[np.ndarray, "vector place"]
) -> tuple[Int[np.ndarray, " vector"], Float[np.ndarray, " vector"]]:
    """The word with the largest inner product, either sign, among those not taken; words in blocks."""
    best, size = np.zeros(len(rest), np.int64), np.full(len(rest), -np.inf)
    block = max(1, BLOCK_BYTES // (8 * len(rest)))
    rows = np.arange(len(rest))
    for start in range(0, len(atoms), block):
        products = np.abs(rest @ atoms[start : start + block].T)
        for place in range(taken.shape[1]):
            inside = (taken[:, place] >= start) & (taken[:, place] < start + products.shape[1])
            products[rows[inside], taken[inside, place] - start] = 0.0
        nearest = products.argmax(axis=1)
        here = products[rows, nearest]
        better = here > size
        best[better], size[better] = nearest[better] + start, here[better]
    return best, size


def _best_sums(
    taken: Float[np.ndarray, "vector place dim"], wanted: Float[np.ndarray, "vector dim"]
) -> Float[np.ndarray, "vector place"]:
    """Least squares of each vector over its own words."""
    gram = taken @ taken.transpose(0, 2, 1)
    return (np.linalg.pinv(gram, hermitian=True) @ np.einsum("vpd,vd->vp", taken, wanted)[:, :, None])[:, :, 0]
