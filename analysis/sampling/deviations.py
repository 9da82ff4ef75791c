"""`directions` in which sampled answers leave the greedy one: singular vectors of the differences of pooled states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from jaxtyping import Float

from ...lake import Lake
from ...lake.errors import ConfigError, UsageError
from ...lake.values import Json
from ..directions.stored import direction_rows
from ..option import option
from ..paths.states import chosen_layers
from ..question import Evidence, Reads, Rows
from .pooled_question import PooledQuestion, own_answers
from .pooling import pool

VERSION = 1
LEAST_SHARE = 1e-9
"""Of the largest singular value: smaller ones are rounding."""


def main_deviations(
    differences: Float[np.ndarray, "sample dim"], n: int
) -> tuple[Float[np.ndarray, "direction dim"], Float[np.ndarray, " direction"]]:
    """The first right singular vectors, each as long as the root mean square of the samples' components along it.

    The second value is the share of all squares. Signs: the mean component is not negative. Not centred.
    """
    _, values, rows = np.linalg.svd(differences.astype(np.float64), full_matrices=False)
    kept = values[:n] > LEAST_SHARE * values[0] if values[0] > 0 else np.zeros(0, bool)
    kept = np.flatnonzero(kept)
    signs = np.where((differences @ rows[kept].T).mean(axis=0) < 0, -1.0, 1.0)
    lengths = values[kept] / np.sqrt(len(differences))
    return rows[kept] * (signs * lengths)[:, None], values[kept] ** 2 / np.square(values).sum()


@dataclass(frozen=True)
class Deviations(PooledQuestion):
    """Directions in which sampled answers leave the greedy answer of their problem. RUNs: samples, greedy answers."""

    name: ClassVar[str] = "deviations"
    n_runs: ClassVar[tuple[int, int | None]] = (2, 2)
    n: int = option(10, "How many directions of each layer.", flag="--n")

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError for numbers that leave nothing."""
        super().check(run_ids)
        if self.n < 1:
            raise UsageError(f"--n must be 1 or more, not {self.n}.")

    def reads(self) -> Reads:
        """Sequences and states."""
        return [("sequences", {}), *self.states_read()]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """The runs, all options, and the version of the numbers."""
        return dict(vars(self)) | {"runs": list(run_ids), "version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """Directions of each layer."""
        chosen_layers(runs[1].snapshot, self.site, self.layer)  # both must have them
        sides = [own_answers(run.snapshot) for run in runs]
        known = set(sides[1]["prompt_id"].to_list())
        if not known & set(sides[0]["prompt_id"].to_list()):
            raise ConfigError(f"Runs {runs[0].run_id} and {runs[1].run_id} have no problem in common.")
        if (sides[1]["temperature"].fill_null(1.0) > 0).any():
            raise ConfigError(f"Run {runs[1].run_id} is not greedy: name the samples first, then the greedy run.")
        vectors, notices = [], []
        for layer in self.layers:
            differences = self._differences(layer, runs, sides)
            if not np.any(differences):
                raise ConfigError(f"Layer {layer}: no sampled answer differs from the greedy one, so none leaves it.")
            found, shares = main_deviations(differences, self.n)
            label = [f"sampled - greedy, {k + 1} of {len(found)}" for k in range(len(found))]
            about = [{"at": "mean", "unit": False, "label": one} for one in label]
            vectors.append(direction_rows("singular", self.site, layer, found, about))
            notices.append(f"Layer {layer}: {', '.join(f'{one:.0%}' for one in shares)} of the squares.")
        return Rows({}, sides[0].height, notices, vectors)

    def _differences(
        self, layer: int, runs: Sequence[Evidence], sides: Sequence[pl.DataFrame]
    ) -> Float[np.ndarray, "sample dim"]:
        sampled, greedy = (
            pool(run.snapshot, self.site, layer, side, [self.pooling()])[0].states
            for run, side in zip(runs, sides, strict=True)
        )
        row_of = {prompt: row for row, prompt in enumerate(sides[1]["prompt_id"].to_list())}
        pairs = [(n, row_of[prompt]) for n, prompt in enumerate(sides[0]["prompt_id"].to_list()) if prompt in row_of]
        mine, theirs = np.array(pairs).T
        differences = sampled[mine] - greedy[theirs]
        kept = np.isfinite(differences).all(axis=1)
        if not kept.any():
            raise ConfigError(f"Layer {layer}: no problem has a pooled state both sampled and greedy (--stride 1).")
        return differences[kept]
