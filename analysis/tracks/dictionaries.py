"""The decoder rows of the tracked layers at length 1, and distances between features of two layers; knows arrays."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

TABLE_CELLS = 1 << 24
"""Cosines of two whole dictionaries that are computed once and looked up; larger pairs are computed as they come."""


class Dictionaries:
    """One matrix of decoder rows per tracked layer, in the order of the layers."""

    def __init__(self, decoders: Sequence[Float[np.ndarray, "feature dim"]]) -> None:
        self.rows = tuple(unit_rows(decoder) for decoder in decoders)
        self._tables: dict[tuple[int, int, float], Float[np.ndarray, "feature next_feature"]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def permuted(self, seed: int) -> "Dictionaries":
        """A control: the rows of every layer but the first in a random order over the whole dictionary.

        Permuting only the active ones would be none: an assignment finds the same cosines among them.
        """
        rng = np.random.default_rng(seed)
        first, *later = self.rows
        return Dictionaries([first, *(rows[rng.permutation(len(rows))] for rows in later)])

    def distances(
        self, layer: int, feature: Int[np.ndarray, "unit slot"], to: int, next_feature: Int[np.ndarray, "unit next"],
        weight: float,
    ) -> Float[np.ndarray, "unit slot next"]:  # fmt: skip
        """`weight` x (1 - cosine) of features of `layer` and of layer `to`; any number where a slot is empty."""
        rows, next_rows = self.rows[layer], self.rows[to]
        if len(rows) * len(next_rows) > TABLE_CELLS:
            return _distance(rows[feature] @ next_rows[next_feature].swapaxes(1, 2), weight)
        key = layer, to, weight
        if key not in self._tables:
            self._tables[key] = _distance(rows @ next_rows.T, weight)
        # Empty slots (-1) wrap around: their cosine is never looked at.
        place = (feature * len(next_rows))[:, :, None] + next_feature[:, None, :]
        return self._tables[key].ravel().take(place, mode="wrap")


def _distance(cosine: np.ndarray, weight: float) -> np.ndarray:
    """In place."""
    cosine *= -weight
    cosine += weight
    return cosine


def unit_rows(decoder: Float[np.ndarray, "feature dim"]) -> Float[np.ndarray, "feature dim"]:
    """The rows at length 1; rows of length 0 stay 0, so their cosine with anything is 0."""
    rows = np.asarray(decoder, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
