"""Which neurons act: mean size, variance and direct effect of every neuron at the last prompt token, from one pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...lake import Lake
from ...lake.derived import Analysis, input_digest
from ...lake.errors import ConfigError
from ...lake.values import Columns
from ..decoding.reading.check import choose_reading
from ..models.model import LoadedModel
from ..passes import ChunkRows, commit_chunks, is_whole
from ..stored_sequences import StoredBatch, batches_of, computing
from .second_order.head_paths import width_of
from .states import StoredStates, stored_sites
from .targets import PROMPT, Target, choose_targets, cut_sequences

BATCH_SIZE, CHUNK_SEQUENCES = 8, 64


@dataclass
class NeuronRanking:
    """What a call did."""

    run_id: str
    analysis_id: str
    computed: bool
    n_prompts: int
    notices: list[str] = field(default_factory=list)


def rank_neurons(
    lake: Lake,
    run: str,
    load: Callable[[], LoadedModel],
    *,
    on_progress: Callable[[int, int], None] = lambda done, everything: None,
) -> NeuronRanking:
    """Write `neuron_ranks` of a run: its prompts are read again, nothing but sums is kept."""
    run_id = lake.resolve_run(run)
    targets, notices = choose_targets(lake, run_id, PROMPT)
    digest = input_digest(lake.snapshot(run_id), [("sequences", {}), ("token_steps", {})])
    analysis = Analysis(run_id, "neurons", {"at": PROMPT}, digest)
    result = NeuronRanking(run_id, analysis.analysis_id, not is_whole(lake, analysis), len(targets), notices)
    if result.computed:
        loaded = load()
        sums = _stored(lake, run_id, loaded, targets, notices) or _read(lake, run_id, loaded, targets, on_progress)
        commit_chunks(
            lake, analysis, [sums], lambda one: ChunkRows({"neuron_ranks": one.columns(analysis.analysis_id)}),
            n_sequences=len(targets), notices=lambda: notices, replace_older=True,
        )  # fmt: skip
    return result


def _stored(
    lake: Lake, run_id: str, loaded: LoadedModel, targets: Sequence[Target], notices: list[str]
) -> "NeuronSums | None":
    """Sums over activations that the run kept; None where it lacks a layer or the last token of some prompt."""
    snapshot = lake.snapshot(run_id)
    keys = [("mlp_post", layer) for layer in range(loaded.n_layers)]
    if loaded.encoder is not None or not set(keys) <= stored_sites(snapshot):
        return None
    sums = NeuronSums(loaded)
    states = StoredStates(snapshot)
    for start in range(0, len(targets), CHUNK_SEQUENCES):
        chunk = targets[start : start + CHUNK_SEQUENCES]
        for layer, key in enumerate(keys):
            found = states.read({one.sequence_id: [one.position] for one in chunk}, [key])
            if len(found.position) != len(chunk):
                return None
            sums.add(layer, found.states[key].unsqueeze(1).to(loaded.device))
    sums.n = len(targets)
    notices.append("Ranked by the stored activations of mlp_post: nothing was read again.")
    return sums


def _read(
    lake: Lake, run_id: str, loaded: LoadedModel, targets: Sequence[Target], on_progress: Callable[[int, int], None]
) -> "NeuronSums":
    if loaded.encoder is not None:
        raise ConfigError(f"{type(loaded.model).__name__} has an encoder: only decoder-only models can be ranked.")
    sums, reading = NeuronSums(loaded), choose_reading(loaded)
    for start in range(0, len(targets), CHUNK_SEQUENCES):
        chunk = targets[start : start + CHUNK_SEQUENCES]
        for batch in batches_of(cut_sequences(lake, run_id, chunk), reading, BATCH_SIZE):
            with computing(), sums.attached():
                StoredBatch(loaded, batch, reading).read()
        on_progress(start + len(chunk), len(targets))
    return sums


class NeuronSums:
    """Sums over prompts of every neuron's activation at the last column of what is read."""

    def __init__(self, loaded: LoadedModel) -> None:
        anatomy = loaded.decoder.anatomy
        self.projections = [anatomy.module("mlp_post", layer)[0] for layer in range(loaded.n_layers)]
        self.n = 0
        self._sizes, self._means, self._squares = (
            [torch.zeros(width_of(one), dtype=torch.float64, device=loaded.device) for one in self.projections]
            for _ in range(3)
        )
        self._counts = [0] * len(self.projections)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Everything that is read inside the block is counted."""
        handles = []
        for layer, module in enumerate(self.projections):
            handles.append(module.register_forward_pre_hook(self._hook(layer)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self.n = self._counts[0]

    def _hook(self, layer: int) -> Callable[[nn.Module, tuple], None]:
        return lambda module, args: self.add(layer, args[0])

    def add(self, layer: int, neurons: Float[Tensor, "row column neuron"]) -> None:
        """Count one batch of one layer: squares about the running mean, so that no digits are lost."""
        last = neurons[:, -1].double()
        before, rows = self._counts[layer], len(last)
        mean, total = last.mean(0), before + rows
        shift = mean - self._means[layer]
        self._sizes[layer] = self._sizes[layer] + last.abs().sum(0)
        self._squares[layer] = (
            self._squares[layer] + (last - mean).square().sum(0) + shift.square() * before * rows / total
        )
        self._means[layer] = self._means[layer] + shift * rows / total
        self._counts[layer] = total

    def columns(self, analysis_id: str) -> Columns:
        """The columns of `neuron_ranks`."""
        parts = [self._layer(layer) for layer in range(len(self.projections))]
        columns: Columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        columns["variance"] = pl.Series(columns["variance"]).fill_nan(None).to_arrow()
        columns["reason"] = None if self.n > 1 else "only one prompt"
        return columns | {"analysis_id": analysis_id, "n_prompts": self.n}

    def _layer(self, layer: int) -> dict[str, np.ndarray]:
        mean_abs = (self._sizes[layer] / self.n).cpu().numpy()
        variance = (self._squares[layer] / (self.n - 1)).cpu().numpy() if self.n > 1 else np.full(len(mean_abs), np.nan)
        direct = mean_abs * _lengths(self.projections[layer]).cpu().numpy()
        broken = ~np.isfinite(mean_abs)
        if broken.any():
            raise ConfigError(
                f"{int(broken.sum())} neurons of layer {layer} are NaN or infinite at the last prompt token of some "
                "prompt: nothing can be ranked. `lake query nan_report` shows where that begins."
            )
        score = _over_largest(mean_abs) + _over_largest(direct)
        score = score if self.n < 2 else score + _over_largest(variance)
        order = np.argsort(-score, kind="stable")
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        neuron = np.arange(len(order), dtype=np.int32)
        return {
            "layer": np.full(len(order), layer, np.int32), "neuron": neuron, "mean_abs": mean_abs, "variance": variance,
            "direct_effect": direct, "score": score, "rank": rank,
        }  # fmt: skip


def _over_largest(values: np.ndarray) -> np.ndarray:
    largest = values.max()
    return values / largest if largest > 0 else values


def _lengths(projection: nn.Module) -> Float[Tensor, " neuron"]:
    """The length of what each neuron writes, in float64."""
    weight = projection.weight.detach().double()  # type: ignore[union-attr, operator]
    # A linear layer holds [d_model, neuron], GPT-2's Conv1D the transpose.
    return weight.norm(dim=0 if hasattr(projection, "in_features") else 1).reshape(width_of(projection)).clone()
