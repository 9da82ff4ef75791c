"""The decoder rows of the tracked layers at length 1, and cosines between features of two layers; knows arrays."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

TABLE_CELLS = 1 << 24
"""Cosines of two whole dictionaries that are computed once and looked up; larger pairs are computed as they come."""


class Dictionaries:
    """One matrix of decoder rows per tracked layer, in the order of the layers."""

    def __init__(self, decoders: Sequence[Float[np.ndarray, "feature dim"]]) -> None:
        self.rows = tuple(unit_rows(decoder) for decoder in decoders)
        self._tables: dict[tuple[int, int], Float[np.ndarray, "feature next_feature"]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def permuted(self, seed: int) -> "Dictionaries":
        """A control: the rows of every layer but the first in a random order over the whole dictionary.

        Permuting only the active ones would be none: an assignment finds the same cosines among them.
        """
        rng = np.random.default_rng(seed)
        first, *later = self.rows
        return Dictionaries([first, *(rows[rng.permutation(len(rows))] for rows in later)])

    def cosines(
        self, layer: int, feature: Int[np.ndarray, "unit slot"], to: int, next_feature: Int[np.ndarray, "unit next"]
    ) -> Float[np.ndarray, "unit slot next"]:
        """Cosines of features of `layer` with features of layer `to`; any number where a slot is empty (-1)."""
        rows, next_rows = self.rows[layer], self.rows[to]
        if len(rows) * len(next_rows) > TABLE_CELLS:
            return rows[feature] @ next_rows[next_feature].swapaxes(1, 2)
        if (layer, to) not in self._tables:
            self._tables[layer, to] = rows @ next_rows.T
        # Empty slots (-1) wrap around: their cosine is never looked at.
        place = feature[:, :, None] * len(next_rows) + next_feature[:, None, :]
        return self._tables[layer, to].ravel().take(place, mode="wrap")


def unit_rows(decoder: Float[np.ndarray, "feature dim"]) -> Float[np.ndarray, "feature dim"]:
    """The rows at length 1; rows of length 0 stay 0, so their cosine with anything is 0."""
    rows = np.asarray(decoder, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
