"""Scores of one batch: what every neuron does to a direction through the heads of later layers, layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ....lake.errors import UsageError
from ..targets import ANSWER, PROMPT
from .frozen_pass import FrozenPass
from .head_paths import HeadPaths

HUNDRED = 100.0
PLAIN, STATE, CLIP = "plain", "state", "clip"


@dataclass(frozen=True)
class SecondOrderOptions:
    """What is asked besides the direction."""

    at: str = PROMPT
    scaling: str = PLAIN
    by_token: bool = False
    by_head: bool = False
    top: int = 256
    """Neurons of each layer whose heads are kept, those with the largest mean absolute effect."""

    def check(self) -> None:
        """UsageError for options that cannot be."""
        if self.at not in (PROMPT, ANSWER):
            raise UsageError(f"--at is prompt or answer, not {self.at!r}.")
        if self.scaling not in (PLAIN, STATE, CLIP):
            raise UsageError(f"--scaling is plain, state or clip, not {self.scaling!r}.")
        if self.scaling == CLIP and (self.by_head or self.by_token):
            raise UsageError("--scaling clip spreads biases over neurons, not over heads or tokens: leave out --by.")
        if self.top < 1:
            raise UsageError(f"--top must be at least 1, not {self.top}.")


@dataclass(frozen=True)
class LayerScores:
    """One batch, one layer."""

    layer: int
    second: Float[Tensor, "row neuron"]
    direct: Float[Tensor, "row neuron"]
    heads: Float[Tensor, "row path neuron"] | None
    tokens: Float[Tensor, "row column"] | None


class Scorer:
    """Scores of batches for one direction; remembers what neurons write onto the paths."""

    def __init__(self, paths: HeadPaths, options: SecondOrderOptions) -> None:
        self.paths, self.options = paths, options
        dtype = paths.dtype
        self.onto = [paths.neurons(layer).to(dtype) for layer in range(len(paths.layers))]
        self.direct = [paths.direct(layer).to(dtype) for layer in range(len(paths.layers))]

    def scores(self, frozen: FrozenPass) -> Iterator[LayerScores]:
        """Layer by layer."""
        size = frozen.final.double().norm(dim=-1) if self.options.scaling != PLAIN else torch.ones_like(frozen.end)
        factor = (HUNDRED / size.double()).unsqueeze(-1)
        for layer in range(len(self.onto)):
            yield self.layer_scores(frozen, layer, frozen.mlp_post.pop(layer), factor)

    def layer_scores(
        self, frozen: FrozenPass, layer: int, neurons: Float[Tensor, "row column neuron"], factor: Tensor
    ) -> LayerScores:
        """The effects of one layer's neurons at column T."""
        direct = factor * self.direct[layer] * neurons[:, -1].double() / frozen.direct_scale(layer).unsqueeze(-1)
        paths, onto = frozen.paths(layer), self.onto[layer]
        if not paths.shape[1]:
            tokens = torch.zeros_like(frozen.real, dtype=torch.float64) if self.options.by_token else None
            return LayerScores(layer, torch.zeros_like(direct), direct, None, tokens)
        second, heads = self._reached(paths.to(neurons.dtype), neurons, onto, factor)
        tokens = None
        if self.options.by_token:
            tokens = factor * (paths.double() * (neurons @ onto.T).transpose(1, 2).double()).sum(1)
        return LayerScores(layer, second, direct, heads, tokens)

    def _reached(
        self, paths: Float[Tensor, "row path column"], neurons: Float[Tensor, "row column neuron"],
        onto: Float[Tensor, "path neuron"], factor: Float[Tensor, "row 1"],
    ) -> tuple[Float[Tensor, "row neuron"], Float[Tensor, "row path neuron"] | None]:  # fmt: skip
        """Sums over paths in float64, row by row, so that what is summed stays in the processor's cache."""
        second = neurons.new_empty(len(neurons), neurons.shape[-1], dtype=torch.float64)
        heads = neurons.new_empty(len(neurons), *onto.shape) if self.options.by_head else None
        for row in range(len(neurons)):
            reached = torch.mm(paths[row], neurons[row]).mul_(onto)
            second[row] = factor[row] * reached.sum(0, dtype=torch.float64)
            if heads is not None:
                torch.mul(reached, factor[row].to(reached.dtype), out=heads[row])
        return second, heads
