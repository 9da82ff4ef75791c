"""What taking chosen neurons away costs: their effects out of the final states, and the neurons out of the model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ..analysis.neurons.components import AblatedStates
from ..analysis.neurons.judged import judge_conditions, threshold, validate
from ..analysis.row_columns import columns_of
from ..lake import Lake
from ..lake.reading.batches import read_commits
from ..lake.schema import TABLES
from ..lake.values import Row
from .neuron_analyses import NeuronAnswer, NeuronQuestion, Rows, Told, fitted_effects, looked_up
from .neuron_effects import Effects, LayerEffects

if TYPE_CHECKING:
    from .neuron_analyses import Load

UNEDITED = "unedited"
HUNDRED = 100.0
RUN_OF_DIRECTION = (
    "Direction {name} was fitted on problems of this very run, those that judge included: accuracy and AUROC are "
    "flattered. Fit it on another run (lake analyze directions OTHER --site final_norm)."
)


def neuron_ablation(lake: Lake, run: str, asked: NeuronQuestion, load: "Load", told: Told) -> NeuronAnswer:
    """Judge ablated states of the test split, and compare what neurons do with what was predicted."""
    effects = fitted_effects(lake, run, asked, load, told)
    if _is_of_run(lake, effects):
        effects.notices.append(RUN_OF_DIRECTION.format(name=effects.scored.direction.name))
    return looked_up(lake, effects, "neuron-ablation", {}, lambda: _Removal(lake, effects).rows())


def _is_of_run(lake: Lake, effects: Effects) -> bool:
    stored = lake.scan("directions", effects.scored.run_id).select("direction_id").collect()
    return effects.scored.direction.name in stored["direction_id"].to_list()


class _Removal:
    """The problems of the test split with and without neurons."""

    def __init__(self, lake: Lake, effects: Effects) -> None:
        from ..collect.ablation.edited_ends import EditedEnds
        from ..collect.rereading.targets import Target

        self.lake, self.effects = lake, effects
        rows = effects.sequences
        test = ~effects.split.train
        targets = [Target(s, p) for s, p in rows.select("sequence_id", "position").rows()]
        right = rows["correct"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        whole = EditedEnds(lake, effects.scored.run_id, targets, effects.load())
        self.along = effects.direction
        states = whole.states()
        self.states, self.right, self.test = states[test], right[test], test
        self.edge = threshold(states[effects.split.train] @ self.along, right[effects.split.train])
        chosen = [target for target, judged in zip(targets, test, strict=True) if judged]
        self.ends = EditedEnds(lake, effects.scored.run_id, chosen, effects.load())
        self.following = self._following(chosen)

    def _following(self, targets: list[Any]) -> list[int | None]:
        """The stored token behind each position T; None where the sequence ends there."""
        places = [(target.sequence_id, target.position + 1) for target in targets]
        after = pl.DataFrame(places, schema={"sequence_id": pl.Int64, "position": pl.Int32}, orient="row")
        tokens = self.lake.scan("token_steps", self.effects.scored.run_id).select("sequence_id", "position", "token_id")
        joined = after.lazy().join(tokens, on=["sequence_id", "position"], how="left", maintain_order="left").collect()
        return joined["token_id"].to_list()

    def rows(self) -> Rows:
        """Both tables."""
        ablations, validations = [], []
        for layer in self.effects.layers():
            ablations += self._ablations(layer)
            validations += self._validations(layer)
        named = {"paths_id": self.effects.paths.analysis_id}
        return Rows({
            "neuron_ablations": columns_of([row | named for row in ablations]),
            "effect_validation": columns_of([row | named for row in validations]),
        })  # fmt: skip

    def _ablations(self, layer: LayerEffects) -> list[Row]:
        """A row per condition of one layer."""
        states = {UNEDITED: self.states, **self._in_representation(layer), **self._real(layer)}
        projections = {name: found @ self.along for name, found in states.items()}
        losses = {name: self.ends.losses(found, self.following) for name, found in states.items()}
        about = {"layer": layer.layer, "n_neurons": len(layer.neurons)}
        return [about | row for row in judge_conditions(projections, losses, self.right, self.edge, UNEDITED)]

    def _in_representation(self, layer: LayerEffects) -> Mapping[str, np.ndarray]:
        removed = AblatedStates.of(*self.states.shape)
        train, factor = self.effects.split.train, self.effects.factor[self.test, None]
        for place, fit in enumerate(layer.fits):
            q = layer.q[self.test, place]
            mean = layer.q[train, place].mean(axis=0)
            removed.take(q, q * factor, mean, layer.outputs[place], layer.gram(place), fit)
        return {name: self.states - taken for name, taken in removed.removed.items()}

    def _real(self, layer: LayerEffects) -> Mapping[str, np.ndarray]:
        """The model itself without the neurons, and with their mean over the train split's tokens."""
        from ..collect.ablation.site_means import site_means
        from ..collect.models.editing.changes import Mean, Zero
        from ..collect.models.editing.edits import Edit

        train = self.effects.sequences["sequence_id"].to_numpy()[self.effects.split.train].tolist()
        key = ("mlp_post", layer.layer)
        mean = site_means(self.lake, self.effects.scored.run_id, train, self.effects.load(), [key])[key]
        changes = {"zero": Zero(), "mean": Mean(mean)}
        return {
            name: self.ends.states([Edit("mlp_post", layer.layer, change, units=layer.neurons)])
            for name, change in changes.items()
        }

    def _validations(self, layer: LayerEffects) -> list[Row]:
        """A row per neuron: what its removal was predicted to do, and does; in the units of the scores."""
        direction = self.effects.head_paths().direction
        without = self.ends.without_each(layer.layer, layer.neurons, direction)
        measured = (self.states @ self.along)[:, None] - without
        measured *= self.effects.factor[self.test, None]
        second, direct = (self._predicted(layer, effect) for effect in ("second_order", "direct"))
        return [
            {"layer": layer.layer, "neuron": neuron, **validate(second[:, i], direct[:, i], measured[:, i])}
            for i, neuron in enumerate(layer.neurons)
        ]

    def _predicted(self, layer: LayerEffects, effect: str) -> np.ndarray:
        """Stored effects of the chosen neurons at the problems of the test split, `[problem neuron]`."""
        only: Mapping[str, int | str] = {
            "analysis_id": self.effects.scored.analysis_id, "layer": layer.layer, "effect": effect,
        }  # fmt: skip
        ids = self.effects.sequences["sequence_id"].to_numpy()[self.test].tolist()
        place = {sequence_id: i for i, sequence_id in enumerate(ids)}
        found = np.full((len(ids), len(layer.neurons)), np.nan)
        for rows, vectors in read_commits(self.effects.snapshot, TABLES["second_order_scores"], only):
            where = np.array([place.get(one, -1) for one in rows["sequence_id"].to_pylist()])
            found[where[where >= 0]] = vectors[where >= 0][:, list(layer.neurons)]
        return found
