"""What a neuron writes into the final state through each later head, apart from scales and attention (A12).

r_n(k,h) = g_f * C_f((g_k * C_k(w_n)) V_kh O_kh): with q(n;k,h) its sum over heads is the neuron's effect vector, so a
neuron's effects over all prompts are a matrix of prompts x heads and one of heads x width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..rereading.head_paths import HeadPaths, values_of, width_of


def neuron_outputs(paths: HeadPaths, layer: int, neurons: list[int]) -> Float[Tensor, "neuron d_model"]:
    """w_n: what a unit of each neuron adds to the residual stream, a norm behind the MLP's gain included; float64."""
    projection, _ = paths.loaded.decoder.anatomy.module("mlp_post", layer)
    units = torch.zeros(len(neurons), width_of(projection), dtype=paths.dtype, device=paths.loaded.device)
    units[torch.arange(len(neurons)), torch.tensor(neurons)] = 1.0
    written = _linear(projection, units).double()
    behind = paths.norms.blocks[layer].behind_mlp
    return written if behind is None else behind.gained(behind.centre(written))


def path_vectors(paths: HeadPaths, layer: int, neurons: list[int]) -> Float[Tensor, "neuron path d_model"]:
    """r_n(k,h) of some neurons of a layer for all heads of later layers, layer after layer; float64."""
    loaded, heads = paths.loaded, paths.loaded.n_heads
    later = range(layer + 1, loaded.n_layers)
    written = neuron_outputs(paths, layer, neurons)
    if not len(later):
        return written.new_zeros(len(neurons), 0, loaded.d_model)
    normed = []
    for norms in paths.norms.blocks:
        before = norms.before_attention
        normed.append(before.gained(before.centre(written)).to(paths.dtype))
    values = _values(paths, normed)
    parts = []
    for k in later:
        group = torch.arange(heads, device=loaded.device) // (heads // values[k].shape[1])
        by_head = torch.diag_embed(values[k][:, group].transpose(1, 2)).permute(0, 2, 3, 1)
        z = by_head.flatten(2)  # [neuron head (head d_value)]: each row is what one head alone hands on
        projection, _ = loaded.decoder.anatomy.module("z", k)
        out = _linear(projection, z.flatten(0, 1)).double().unflatten(0, (len(neurons), heads))
        behind = paths.norms.blocks[k].behind_attention
        parts.append(out if behind is None else behind.gained(behind.centre(out)))
    final = paths.norms.final
    return final.gained(final.centre(torch.cat(parts, dim=1)))


def _values(paths: HeadPaths, normed: list[Tensor]) -> dict[int, Float[Tensor, "neuron value_head d_value"]]:
    """Each layer's values of the states given to it, less those of a state of zeros."""
    loaded, n = paths.loaded, len(normed[0])
    ids = torch.zeros(n + 1, 1, dtype=torch.long, device=loaded.device)
    with torch.no_grad():
        given = [torch.cat((rows, torch.zeros_like(rows[:1]))).unsqueeze(1) for rows in normed]
        values, _ = values_of(loaded, ids, lambda layer, state: given[layer])
    return {layer: value[:n, :, 0] - value[n:, :, 0] for layer, value in values.items()}


def _linear(projection: nn.Module, rows: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_out"]:
    """A linear module without its bias, whichever way it holds its weights."""
    with torch.no_grad():
        return projection(rows) - projection(torch.zeros_like(rows[:1]))
