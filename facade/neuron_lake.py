"""Neurons and layers taken away, their components and words: each verb is a method with the verb's options."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..lake.values import Json
from .read_again import ReadAgain, Told, quietly

if TYPE_CHECKING:
    from ..analysis.question import Answer
    from ..collect.ablation.layers import AblationResult
    from ..collect.neurons.vectors import VectorFiles
    from ..collect.rereading.direction_tokens import DirectionTokens
    from .neuron_analyses import NeuronAnswer


@dataclass(frozen=True)
class Ablation:
    """What every problem lost, and what each layer costs over them."""

    problems: "AblationResult"
    layers: "Answer"

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return asdict(self.problems) | {"layers_id": self.layers.analysis_id}


class NeuronLake(ReadAgain):
    """What is found out about layers and single neurons by taking them away or apart."""

    def ablate(
        self,
        run: str = "latest",
        *,
        sites: Sequence[str] = ("attn_out", "mlp_out"),
        actions: Sequence[str] = ("zero",),
        layers: str = "all",
        scope: str = "all",
        means_from: str | None = None,
        oracle: str | None = None,
        limit: int | None = None,
        model: str | None = None,
        device: str = "cpu",
        on_progress: Told = quietly,
    ) -> Ablation:
        """Loss and greedy accuracy without each layer's sites (tables `ablated_problems`, `layer_ablations`)."""
        from ..analysis.neurons.layer_ablations import LayerAblations
        from ..analysis.question import ask
        from ..collect.ablation.layers import AblationOptions, ablate

        options = AblationOptions(tuple(sites), tuple(actions), layers, scope, means_from, oracle, limit)
        problems = ablate(self, run, options, self._model(run, model, device), on_progress=on_progress)
        return Ablation(problems, ask(self, problems.run_id, LayerAblations(ablation_id=problems.analysis_id)))

    def direction_tokens(
        self, run: str = "latest", *, top: int = 20, model: str | None = None, device: str = "cpu"
    ) -> "DirectionTokens":
        """The tokens that each stored direction points to and from (table `direction_tokens`)."""
        from ..collect.rereading.direction_tokens import direction_tokens

        return direction_tokens(self, run, top, self._model(run, model, device, dtype="float32"))

    def effect_vectors(
        self,
        folder: str | Path,
        run: str = "latest",
        *,
        neurons: int | str,
        scores: str | None = None,
        direction: str | None = None,
        model: str | None = None,
        device: str = "cpu",
        on_progress: Told = quietly,
    ) -> "VectorFiles":
        """Write the effect vectors [N, neurons, d] of chosen neurons as .npy files, one per layer."""
        from functools import cache

        from ..collect.neurons.paths import find_scores, neuron_paths
        from ..collect.neurons.vectors import write_vectors

        load = cache(self._model(run, model, device, dtype="float32"))
        scored = find_scores(self, run, scores, direction)
        paths = neuron_paths(self, scored, str(neurons), load, on_progress=on_progress)
        return write_vectors(self, scored, paths, load(), Path(folder))

    def neuron_pca(
        self,
        run: str = "latest",
        *,
        neurons: int | str = 64,
        top_k: int = 100,
        scores: str | None = None,
        direction: str | None = None,
        model: str | None = None,
        device: str = "cpu",
        on_progress: Told = quietly,
    ) -> "NeuronAnswer":
        """The first component of each chosen neuron's effect vectors (table `neuron_components`).

        `neurons` is how many of each layer, those with the largest effects, or a file that names them.
        """
        from .neuron_analyses import NeuronQuestion, neuron_pca

        asked = NeuronQuestion(str(neurons), scores, direction, top_k)
        return neuron_pca(self, run, asked, self._model(run, model, device, dtype="float32"), on_progress)

    def neuron_words(
        self,
        run: str = "latest",
        *,
        neurons: int | str = 64,
        lexicon: str | Path | None = None,
        atoms: int = 16,
        top_k: int = 100,
        scores: str | None = None,
        direction: str | None = None,
        model: str | None = None,
        device: str = "cpu",
        on_progress: Told = quietly,
    ) -> "NeuronAnswer":
        """Each component as a sparse sum of tokens, or of a lexicon's words (table `neuron_words`)."""
        from .neuron_analyses import NeuronQuestion, neuron_words

        asked = NeuronQuestion(str(neurons), scores, direction, top_k)
        load = self._model(run, model, device, dtype="float32")
        path = None if lexicon is None else Path(lexicon)
        return neuron_words(self, run, asked, load, on_progress, lexicon=path, n_atoms=atoms)

    def neuron_ablation(
        self,
        run: str = "latest",
        *,
        neurons: int | str = 64,
        top_k: int = 100,
        scores: str | None = None,
        direction: str | None = None,
        model: str | None = None,
        device: str = "cpu",
        on_progress: Told = quietly,
    ) -> "NeuronAnswer":
        """What removing neurons costs, and whether it was predicted (`neuron_ablations`, `effect_validation`)."""
        from .neuron_analyses import NeuronQuestion
        from .neuron_removal import neuron_ablation

        asked = NeuronQuestion(str(neurons), scores, direction, top_k)
        return neuron_ablation(self, run, asked, self._model(run, model, device, dtype="float32"), on_progress)
