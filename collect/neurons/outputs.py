"""What a neuron writes into the final state through each later head, apart from scales and attention (A12).

r_n(k,h) = g_f * C_f((g_k * C_k(w_n)) V_kh O_kh): with q(n;k,h) its sum over heads is the neuron's effect vector, so a
neuron's effects over all prompts are a matrix of prompts x heads and one of heads x width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..rereading.second_order.head_paths import HeadPaths, values_of, width_of

ROWS = 512
"""Unit vectors that one pass reads."""
NEURONS_AT_ONCE = 64
"""Neurons of a layer whose outputs are computed together: the larger they are, the more memory."""


def neuron_outputs(paths: HeadPaths, layer: int, neurons: list[int]) -> Float[Tensor, "neuron d_model"]:
    """w_n: what a unit of each neuron adds to the residual stream, a norm behind the MLP's gain included; float64."""
    projection, _ = paths.loaded.decoder.anatomy.module("mlp_post", layer)
    units = torch.zeros(len(neurons), width_of(projection), dtype=paths.dtype, device=paths.loaded.device)
    units[torch.arange(len(neurons)), torch.tensor(neurons)] = 1.0
    written = _linear(projection, units).double()
    behind = paths.norms.blocks[layer].behind_mlp
    return written if behind is None else behind.gained(behind.centre(written))


class HeadOutputs:
    """r_n(k,h) of any neurons of a model: what its heads make of a state, computed once, in the model's own dtype."""

    def __init__(self, paths: HeadPaths) -> None:
        self.paths = paths
        self._values: dict[int, Float[Tensor, "d_model value_head d_value"]] = {}
        self._ways: dict[int, Float[Tensor, "head d_value d_model"]] = {}

    def of(self, layer: int, neurons: list[int]) -> Float[Tensor, "neuron path d_model"]:
        """r_n(k,h) of some neurons of a layer for all heads of later layers, layer after layer."""
        paths, loaded = self.paths, self.paths.loaded
        written = neuron_outputs(paths, layer, neurons)
        parts = [written.new_zeros(len(neurons), 0, loaded.d_model, dtype=paths.dtype)]
        if layer + 1 < loaded.n_layers and not self._values:
            self._values = _value_maps(paths)
        for k in range(layer + 1, loaded.n_layers):
            before, way = paths.norms.blocks[k].before_attention, self._way(k)
            normed = before.gained(before.centre(written)).to(paths.dtype)
            values = torch.einsum("nd,dgv->gnv", normed, self._values[k])
            group = torch.arange(loaded.n_heads, device=loaded.device) // (loaded.n_heads // len(values))
            parts.append(torch.bmm(values[group], way).transpose(0, 1))
        return torch.cat(parts, dim=1)

    def _way(self, layer: int) -> Float[Tensor, "head d_value d_model"]:
        """From what a head reads to the final state, gains and centring of the norms on the way included."""
        if layer not in self._ways:
            paths = self.paths
            projection, _ = paths.loaded.decoder.anatomy.module("z", layer)
            units = torch.eye(width_of(projection), dtype=paths.dtype, device=paths.loaded.device)
            out, behind = _linear(projection, units).double(), paths.norms.blocks[layer].behind_attention
            out = out if behind is None else behind.gained(behind.centre(out))
            out = paths.norms.final.gained(paths.norms.final.centre(out)).to(paths.dtype)
            self._ways[layer] = out.unflatten(0, (paths.loaded.n_heads, -1))
        return self._ways[layer]


def path_vectors(paths: HeadPaths, layer: int, neurons: list[int]) -> Float[Tensor, "neuron path d_model"]:
    """`HeadOutputs` of some neurons; float64."""
    return HeadOutputs(paths).of(layer, neurons).double()


def _value_maps(paths: HeadPaths) -> dict[int, Float[Tensor, "d_model value_head d_value"]]:
    """Each layer's values of every unit vector of the normed state, less those of a state of zeros."""
    loaded = paths.loaded
    units = torch.eye(loaded.d_model, dtype=paths.dtype, device=loaded.device)
    parts: dict[int, list[Tensor]] = {}
    for rows in units.split(ROWS):
        ids = torch.zeros(len(rows) + 1, 1, dtype=torch.long, device=loaded.device)
        given = torch.cat((rows, torch.zeros_like(rows[:1]))).unsqueeze(1)
        with torch.no_grad():
            values, _ = values_of(loaded, ids, lambda layer, state, given=given: given)
        for layer, value in values.items():
            parts.setdefault(layer, []).append(value[:-1, :, 0] - value[-1:, :, 0])
    return {layer: torch.cat(pieces) for layer, pieces in parts.items()}


def _linear(projection: nn.Module, rows: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_out"]:
    """A linear module without its bias, whichever way it holds its weights."""
    with torch.no_grad():
        return projection(rows) - projection(torch.zeros_like(rows[:1]))
