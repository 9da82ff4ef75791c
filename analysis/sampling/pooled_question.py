"""What is asked about pooled states: options, open choices and answers that such questions have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import polars as pl

from ...lake.snapshot import Snapshot
from ..option import option
from ..paths.states import answers, chosen_layers
from ..question import Question, Reads
from .pooling import Pooling, check_pooling, default_stride

OWN = ("sampled", "greedy")
"""Origins of sequences that the model wrote by itself."""


@dataclass(frozen=True)
class PooledQuestion(Question):
    """A question about the mean of a site over every so many answer tokens."""

    site: str = option("resid_post", "Site of the states.")
    layer: str = option("all", "Layers: all that are stored, or e.g. 0,6,-1 or 8-11.", metavar="LAYERS")
    stride: int | None = option(
        None, "Pool every so many answer tokens; if not given 32, or 1 where half of the answers are under 64 tokens."
    )
    window: int | None = option(None, "Of these only the last so many.")

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError for numbers that leave nothing to pool."""
        super().check(run_ids)
        check_pooling(self.stride, self.window, self._checkpoints())

    def resolve(self, snapshot: Snapshot) -> Self:
        """The layers by number, and the stride, by the first run."""
        layers = chosen_layers(snapshot, self.site, self.layer)
        stride = self.stride or default_stride(self._answers(snapshot)["n_answer"].to_numpy())
        return replace(self, layer=",".join(map(str, layers)), stride=stride)

    @property
    def layers(self) -> list[int]:
        """The layers of a resolved question."""
        return [int(layer) for layer in self.layer.split(",")]

    def pooling(self, checkpoint: int | None = None) -> Pooling:
        """Which tokens a resolved question pools, up to a checkpoint."""
        assert self.stride is not None
        return Pooling(self.stride, self.window, checkpoint)

    def states_read(self) -> Reads:
        """The states of a resolved question."""
        return [("activations", {"site": self.site, "layer": layer}) for layer in self.layers]

    def _checkpoints(self) -> Sequence[int]:
        return ()

    def _answers(self, snapshot: Snapshot) -> pl.DataFrame:
        """The answers by whose lengths the stride is chosen."""
        return own_answers(snapshot)


def own_answers(snapshot: Snapshot) -> pl.DataFrame:
    """The sequences that the model wrote by itself (those of imports say nothing, and count)."""
    return answers(snapshot).filter(pl.col("origin").is_null() | pl.col("origin").is_in(OWN))
