"""What runs the model of a run over its stored sequences again: each verb is a method with the verb's options."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from ..lake.values import Json
from ..queries.queried_lake import QueriedLake

if TYPE_CHECKING:
    from ..analysis.question import Answer
    from ..collect.models.model import LoadedModel
    from ..collect.models.readout import Readout
    from ..collect.rereading.attribution import AttributionResult
    from ..collect.rereading.lens import LensResult
    from ..collect.rereading.neurons import NeuronRanking
    from ..collect.rereading.points import Point
    from ..collect.rereading.second_order.effects import SecondOrderResult

Told = Callable[[int, int], None]
"""Is given what is done, and all there is to do."""


def quietly(*_: object) -> None:
    """What nobody listens to."""


@dataclass(frozen=True)
class SecondOrderEffects:
    """Scores of every sequence, and the effects of every neuron over them."""

    scores: "SecondOrderResult"
    effects: "Answer"

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return asdict(self.scores) | {"effects_id": self.effects.analysis_id}


class ReadAgain(QueriedLake):
    """Analyses and experiments that need the run's model; what is stored already needs none."""

    def lens(
        self,
        run: str = "latest",
        *,
        layers: Sequence[int] | None = None,
        sequences: Sequence[int] | None = None,
        topk: int = 5,
        model: str | None = None,
        device: str = "cpu",
        on_progress: Told = quietly,
    ) -> "LensResult":
        """What the state behind each block would predict (table `logit_lens`), from the states that the run kept."""
        from ..collect.rereading.lens import LensOptions, analyze_lens

        options = LensOptions(_tuple(layers), _tuple(sequences), topk)

        def load_readout() -> "Readout | None":
            from ..collect.stored_sequences import load_run_readout

            return load_run_readout(self, self.resolve_run(run), model=model, device=device)

        return analyze_lens(
            self, run, options, self._model(run, model, device), load_readout=load_readout, on_progress=on_progress
        )  # fmt: skip

    def attribution(
        self,
        run: str = "latest",
        *,
        points: int | None = 200,
        sequences: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
        tokens: tuple[int, int] | None = None,
        at: "Sequence[Point]" = (),
        by: Literal["layer", "head"] = "layer",
        model: str | None = None,
        device: str = "cpu",
        on_progress: Told = quietly,
    ) -> "AttributionResult":
        """Which parts of the model make it prefer its best token to the second best (table `logit_contributions`).

        `points` are the generated tokens whose two best candidates were closest; None: all of them. `at` names them.
        """
        from ..collect.rereading.attribution import analyze_attribution
        from ..collect.rereading.points import PointOptions
        from ..lake.errors import UsageError

        if by not in ("layer", "head"):
            raise UsageError(f"--by is layer or head, not {by!r}.")
        options = PointOptions(_tuple(sequences), _tuple(steps), points, tokens, tuple(at))
        return analyze_attribution(
            self, run, options, self._model(run, model, device), by_head=by == "head", on_progress=on_progress
        )  # fmt: skip

    def second_order(
        self,
        direction: str,
        run: str = "latest",
        *,
        at: str = "prompt",
        scaling: str = "plain",
        by: Sequence[str] = (),
        top: int = 256,
        model: str | None = None,
        device: str = "cpu",
        on_progress: Told = quietly,
    ) -> SecondOrderEffects:
        """What every neuron adds to a direction through later heads (tables `second_order_*`, `neuron_effects`).

        `direction` is a .npy file with one vector, or the id of a stored direction; `by` may hold head and token.
        """
        from ..analysis.neurons.effects import NeuronEffects
        from ..analysis.question import ask
        from ..collect.rereading.directions import find_direction
        from ..collect.rereading.second_order.effects import second_order
        from ..collect.rereading.second_order.scorer import SecondOrderOptions
        from ..lake.errors import UsageError

        if unknown := [kind for kind in by if kind not in ("head", "token")]:
            raise UsageError(f"--by is head or token, not {unknown[0]!r}.")
        options = SecondOrderOptions(at, scaling, by_token="token" in by, by_head="head" in by, top=top)
        options.check()
        load = self._model(run, model, device, dtype="float32")
        scores = second_order(self, run, find_direction(self, direction), options, load, on_progress=on_progress)
        return SecondOrderEffects(scores, ask(self, scores.run_id, NeuronEffects(scores_id=scores.analysis_id)))

    def rank_neurons(
        self,
        run: str = "latest",
        *,
        model: str | None = None,
        device: str = "cpu",
        on_progress: Told = quietly,
    ) -> "NeuronRanking":
        """How strongly every neuron acts at the last prompt token (table `neuron_ranks`)."""
        from ..collect.rereading.neurons import rank_neurons

        return rank_neurons(self, run, self._model(run, model, device, dtype="float32"), on_progress=on_progress)

    def _model(self, run: str, model: str | None, device: str, dtype: str | None = None) -> "Callable[[], LoadedModel]":
        """The run's model, loaded when it is first needed; `model` is a name or folder with the same weights."""

        def load() -> "LoadedModel":
            from ..collect.stored_sequences import load_run_model

            return load_run_model(self, self.resolve_run(run), model=model, device=device, dtype=dtype)

        return load


def _tuple(values: Sequence[int] | None) -> tuple[int, ...] | None:
    return tuple(values) if values else None
