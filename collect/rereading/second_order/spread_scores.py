"""Scores as the original method scales them (`--scaling clip`): means and biases are spread over what they are of.

Before the attention of layer k the residual stream is a sum of 1 + 2k terms (the embedding, and what each earlier
attention and MLP added), and each of these counts as the sum of as many parts as the MLP has neurons. A LayerNorm's
mean and all biases are divided by the number of parts, so that all parts together are exactly what the layers compute:
norms are not centred part by part. Only models of LayerNorms have such means.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ....lake.errors import ConfigError
from ..attribution import pull_back
from .frozen_pass import FrozenPass
from .head_paths import HeadPaths, width_of
from .scorer import LayerScores, Scorer, SecondOrderOptions


def check_norms(paths: HeadPaths) -> None:
    """ConfigError for models whose norms take no mean away, or stand behind attention or MLP."""
    name = type(paths.loaded.model).__name__
    norms = paths.norms
    if not norms.final.centred or not all(one.before_attention.centred for one in norms.blocks):
        raise ConfigError(
            f"{name} has RMSNorms, which take no mean away: --scaling clip spreads the means of LayerNorms. Use plain "
            "or state."
        )
    if any(one.behind_attention is not None or one.behind_mlp is not None for one in norms.blocks):
        raise ConfigError(f"{name} has norms behind attention or MLP: --scaling clip is not defined there.")


class SpreadScorer(Scorer):
    """Scores of batches for one direction, with every mean and bias spread; `paths` do not centre."""

    def __init__(self, paths: HeadPaths, options: SecondOrderOptions) -> None:
        check_norms(paths)
        super().__init__(paths, options)
        self.biases = [self._bias(layer) for layer in range(len(paths.layers))]

    def _bias(self, layer: int) -> tuple[Float[Tensor, " path"], Float[Tensor, ""]]:
        """What the MLP's bias writes onto every path, and onto the direction itself."""
        projection, _ = self.paths.loaded.decoder.anatomy.module("mlp_post", layer)
        later = [one.into for one in self.paths.layers[layer + 1 :]]
        targets = torch.cat([*later, self.paths.u.unsqueeze(0)])
        bias = pull_back(projection, width_of(projection), targets)[1].double()
        return bias[:-1], bias[-1]

    def layer_scores(
        self, frozen: FrozenPass, layer: int, neurons: Float[Tensor, "row column neuron"], factor: Tensor
    ) -> LayerScores:
        """The effects of one layer's neurons at column T, means and biases included."""
        scores = super().layer_scores(frozen, layer, neurons, factor)
        width = neurons.shape[-1]
        onto, direct = self.biases[layer]
        shared = (frozen.paths(layer).double().sum(-1) @ onto) / width
        for k in range(layer + 1, len(self.paths.layers)):
            shared = shared + self._constant(frozen, k) / ((1 + 2 * k) * width)
        at_end = (direct / frozen.end.double() + self._final(frozen)) / width
        second = scores.second + factor * shared.unsqueeze(-1)
        if layer + 1 == len(self.paths.layers):
            second = torch.zeros_like(second)
        return LayerScores(layer, second, scores.direct + factor * at_end.unsqueeze(-1), None, None)

    def _constant(self, frozen: FrozenPass, k: int) -> Float[Tensor, " row"]:
        """What the means and biases of layer k's attention and of the final norm add, all parts together."""
        one, end = self.paths.layers[k], frozen.end.double()
        weights = torch.where(frozen.real.unsqueeze(1) > 0, frozen.weights[k].double(), 0.0)
        means = torch.where(frozen.real > 0, frozen.means[k].double(), 0.0).unsqueeze(1)
        taken = (frozen.into(k).double() * means).sum(-1) @ one.into.sum(-1)
        added = (weights.sum(-1) @ one.constant + one.output) / end
        return added - taken + self._final(frozen)

    def _final(self, frozen: FrozenPass) -> Float[Tensor, " row"]:
        """The final norm's mean and bias: the share of one of the 1 + 2 L terms in front of it."""
        norm, n_terms = self.paths.norms.final, 1 + 2 * len(self.paths.layers)
        bias = norm.bias @ self.paths.direction
        return (bias - frozen.end_mean.double() * self.paths.u.sum() / frozen.end.double()) / n_terms
