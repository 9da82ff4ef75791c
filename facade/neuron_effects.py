"""Chosen neurons' effects in parts: paths out of the lake, what they write from the model, components of both."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from jaxtyping import Float

from ..analysis.neurons.components import Component, first_component
from ..analysis.neurons.judged import Split, split_problems
from ..lake import Lake
from ..lake.errors import ConfigError
from ..lake.reading.batches import read_commits
from ..lake.schema import TABLES

if TYPE_CHECKING:
    from ..collect.models.model import LoadedModel
    from ..collect.neurons.paths import NeuronPaths, Scored
    from ..collect.rereading.second_order.head_paths import HeadPaths

PATHS = "second_order_paths"
FEWEST = 3


@dataclass(frozen=True, eq=False)
class LayerEffects:
    """One layer's chosen neurons over problems, in the order of `Effects.sequences`."""

    layer: int
    neurons: tuple[int, ...]
    q: Float[np.ndarray, "problem neuron path"]
    """In the units of the final state."""
    outputs: Float[np.ndarray, "neuron path d_model"]
    fits: tuple[Component, ...]
    """First components of the scaled effects of the train split."""

    def gram(self, place: int) -> Float[np.ndarray, "path path"]:
        """Inner products of what one neuron writes through the heads."""
        return self.outputs[place] @ self.outputs[place].T


class Effects:
    """The effects of chosen neurons at one sequence of each problem of a run."""

    def __init__(
        self, lake: Lake, scored: "Scored", paths: "NeuronPaths", load: "Callable[[], LoadedModel]", top_k: int
    ) -> None:
        self.lake, self.scored, self.paths, self.load, self.top_k = lake, scored, paths, load, top_k
        self.snapshot = lake.snapshot(scored.run_id)
        columns = ["sequence_id", "prompt_id", "split", "correct"]
        known = self._places()
        rows = lake.scan("sequences", scored.run_id).select(columns).sort("sequence_id").collect()
        rows = rows.join(known, on="sequence_id", how="inner", maintain_order="left")
        self.sequences = rows.unique("prompt_id", keep="first", maintain_order=True)
        self.notices = []
        if self.sequences.height < rows.height:
            self.notices.append(f"{rows.height:,} sequences of {self.sequences.height:,} problems: the first of each.")
        self.split: Split = split_problems(self.sequences["prompt_id"].to_list(), self.sequences["split"].to_list())
        n_train = int(self.split.train.sum())
        if min(n_train, self.sequences.height - n_train) < FEWEST:
            raise ConfigError(
                f"Run {scored.run_id} has {self.sequences.height:,} problems: too few to fit on some and judge on "
                "others. Collect more (--limit)."
            )
        self.notices.append(f"Components are {self.split.words}.")

    def _places(self) -> pl.DataFrame:
        """Sequences that have paths, and the factor of their scores."""
        rows = self.lake.scan(PATHS, self.scored.run_id).filter(pl.col("analysis_id") == self.paths.analysis_id)
        return rows.select("sequence_id", "position", "factor").unique("sequence_id").collect()

    @property
    def factor(self) -> Float[np.ndarray, " problem"]:
        """From the units of the final state to those of the scores."""
        return self.sequences["factor"].to_numpy()

    @property
    def direction(self) -> Float[np.ndarray, " d_model"]:
        """At length 1."""
        vector = self.scored.direction.vector.double().numpy()
        return vector / np.linalg.norm(vector)

    @cache  # noqa: B019 - one short-lived object per command
    def head_paths(self) -> "HeadPaths":
        """The model's paths to the direction."""
        from ..collect.rereading.second_order.head_paths import HeadPaths

        return HeadPaths(self.load(), self.scored.direction.vector)

    def layers(self) -> Iterator[LayerEffects]:
        """Layer by layer; the last one, which nothing follows, has no effects."""
        from ..collect.neurons.outputs import NEURONS_AT_ONCE, HeadOutputs

        head_paths, train = self.head_paths(), self.split.train
        head_outputs = HeadOutputs(head_paths)
        for layer, neurons in self.paths.chosen.items():
            if layer + 1 >= head_paths.loaded.n_layers:
                self.notices.append(f"Layer {layer} is the last: its neurons have no second-order effect.")
                continue
            q = self._matrix(layer, neurons)
            scaled = q * self.factor[:, None, None]
            parts = [
                head_outputs.of(layer, list(neurons[start : start + NEURONS_AT_ONCE])).double().cpu().numpy()
                for start in range(0, len(neurons), NEURONS_AT_ONCE)
            ]
            outputs = np.concatenate(parts)
            fits = tuple(
                first_component(scaled[train, i], outputs[i] @ outputs[i].T, self.top_k) for i in range(len(neurons))
            )
            yield LayerEffects(layer, neurons, q, outputs, fits)

    def _matrix(self, layer: int, neurons: tuple[int, ...]) -> Float[np.ndarray, "problem neuron path"]:
        only: Mapping[str, int | str] = {"analysis_id": self.paths.analysis_id, "layer": layer}
        place = {sequence_id: i for i, sequence_id in enumerate(self.sequences["sequence_id"].to_list())}
        column = {neuron: i for i, neuron in enumerate(neurons)}
        found: np.ndarray | None = None
        for rows, vectors in read_commits(self.snapshot, TABLES[PATHS], only):
            if found is None:
                found = np.full((len(place), len(neurons), vectors.shape[1]), np.nan)
            rows_of = np.array([place.get(one, -1) for one in rows["sequence_id"].to_pylist()])
            columns = np.array([column[one] for one in rows["neuron"].to_pylist()])
            known = rows_of >= 0
            found[rows_of[known], columns[known]] = vectors[known]
        assert found is not None
        return found
