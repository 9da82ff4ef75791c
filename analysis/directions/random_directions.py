"""Random directions of the same length as given ones: what any vector of that length does, none in particular."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float

from ...lake import Lake
from ...lake.errors import UsageError
from ...lake.snapshot import Snapshot
from ...lake.values import Json
from ..option import option
from ..question import Evidence, Question, Reads, Rows
from .stored import direction_rows, stored_directions

VERSION = 1


def random_beside(name: str, draw: int, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
    """A vector of equal length whose direction is uniform on the sphere: a function of the name and the draw alone."""
    seed = int.from_bytes(hashlib.sha256(f"{name}:{draw}".encode()).digest()[:8], "little")
    drawn = np.random.default_rng(seed).normal(size=len(vector))
    return drawn * (np.linalg.norm(vector) / np.linalg.norm(drawn))


@dataclass(frozen=True)
class RandomDirections(Question):
    """Random directions beside stored ones, of equal length, at the same site and layer: controls for `--edit add:`."""

    name: ClassVar[str] = "random-directions"
    directions: tuple[str, ...] | None = option(None, "Id of a stored direction.", flag="--direction")
    draws: int = option(1, "Random directions beside each.")

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError without a direction, or for no draw."""
        super().check(run_ids)
        if not self.directions:
            raise UsageError("Name the directions that random ones are to stand beside: --direction ID.")
        if self.draws < 1:
            raise UsageError(f"--draws must be 1 or more, not {self.draws}.")

    def resolve(self, snapshot: Snapshot) -> Self:
        """Nothing is open."""
        return self

    def reads(self) -> Reads:
        """Nothing of the run: an id says what the vector is."""
        return []

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """The ids, and how many draws."""
        return {"directions": list(self.directions or ()), "draws": self.draws, "version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """A row per direction and draw."""
        vectors = []
        for one in stored_directions(lake, ids=self.directions):
            drawn = np.stack([random_beside(one.direction_id, draw, one.vector) for draw in range(self.draws)])
            label = f"random beside {one.direction_id}"
            about = [{"label": label, "control_of": one.direction_id}] * self.draws
            vectors.append(direction_rows("random", one.site, one.layer, drawn, about))
        return Rows({}, 0, [], vectors)
