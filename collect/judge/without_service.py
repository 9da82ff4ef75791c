"""Judges that need no service: the known methods of the bundled problems, and distances of sentence embeddings."""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from jaxtyping import Bool, Float

from ..embedding.embedder import Embedder
from ..tinymath.problems import METHODS, problems
from .pairs import Solution
from .verdict import Verdict

FITTED_ON = 200
"""Problems of the train split whose known solutions fit the threshold."""
Tell = Callable[[Solution, Solution], Verdict]


def known(a: Solution, b: Solution) -> Verdict:
    """Whether the recognised methods differ; no verdict where one is not known."""
    if a.method is None or b.method is None:
        return Verdict(None, None, "the method of a solution is not known")
    return Verdict(a.method != b.method, f"{a.method}, {b.method}")


def local(solutions: Sequence[Solution], embedder: Embedder) -> Tell:
    """Whether two texts are farther apart than the threshold that tells known methods apart best."""
    threshold = best_threshold(*known_distances(embedder))
    texts = sorted({one.text for one in solutions})
    place = {text: row for row, text in enumerate(texts)}
    vectors, _, _ = embedder.embed(texts)

    def tell(a: Solution, b: Solution) -> Verdict:
        gap = float(1 - vectors[place[a.text]] @ vectors[place[b.text]])
        return Verdict(gap > threshold, f"cosine distance {gap:.4f}, threshold {threshold:.4f}")

    return tell


def known_distances(embedder: Embedder) -> tuple[Float[np.ndarray, " pair"], Bool[np.ndarray, " pair"]]:
    """Cosine distances of pairs of train solutions, and whether their methods differ.

    Both solutions of one problem differ in method; the same method's solutions of two problems do not.
    """
    train = list(islice(problems("train"), FITTED_ON))
    direct, split = (embedder.embed([one.solutions[m] for one in train])[0] for m in METHODS)
    distances = [1 - (direct * split).sum(axis=1)]
    distances += [1 - (one[:-1] * one[1:]).sum(axis=1) for one in (direct, split)]
    differ = [np.full(len(part), place == 0) for place, part in enumerate(distances)]
    return np.concatenate(distances).astype(np.float64), np.concatenate(differ)


def best_threshold(distance: Float[np.ndarray, " pair"], differ: Bool[np.ndarray, " pair"]) -> float:
    """The midpoint between two neighbouring distances that tells most pairs right, both classes weighing the same."""
    order = np.argsort(distance, kind="stable")
    values, truth = distance[order], differ[order]
    below = np.concatenate([[0], np.cumsum(~truth)]) / max(1, (~truth).sum())
    above = 1 - np.concatenate([[0], np.cumsum(truth)]) / max(1, truth.sum())
    best = int(np.argmax(below + above))
    ends = np.concatenate([[values[0]], values, [values[-1]]])
    return float(ends[best] + ends[best + 1]) / 2
