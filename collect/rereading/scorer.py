"""Scores of one batch: what every neuron does to a direction through the heads of later layers, layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...lake.errors import UsageError
from .frozen_pass import FrozenPass
from .head_paths import HeadPaths
from .targets import ANSWER, PROMPT

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
        reached = torch.bmm(paths.to(neurons.dtype), neurons).mul_(onto)
        heads = factor.unsqueeze(-1) * reached if self.options.by_head else None
        tokens = None
        if self.options.by_token:
            tokens = factor * (paths.double() * (neurons @ onto.T).transpose(1, 2).double()).sum(1)
        return LayerScores(layer, factor * reached.sum(1, dtype=torch.float64), direct, heads, tokens)
