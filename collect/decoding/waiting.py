"""Sequences that wait for a place in the batch: which of them take the places of those that have ended, and when."""

import numpy as np

JOINING_SHARE = 4
"""A fourth of the batch joins at once: a pass for each newcomer costs more than a few steps with places left empty."""


class Waiting:
    """The sequences of a group in their order, of which at most `n_rows` run at a time.

    Who joins when depends on how many are alive and on nothing else, so that the same tokens give the same batches.
    """

    def __init__(self, n_sequences: int, n_rows: int) -> None:
        self.n_sequences = n_sequences
        self.n_rows = n_rows
        self._next = 0

    def take(self, n_alive: int) -> np.ndarray:
        """Indexes of the sequences that join `n_alive` others now; none while too few places are free."""
        left = self.n_sequences - self._next
        free = self.n_rows - n_alive
        if n_alive and free < min(left, max(1, self.n_rows // JOINING_SHARE)):
            return np.arange(0)
        taken = np.arange(self._next, self._next + min(left, free))
        self._next += len(taken)
        return taken
