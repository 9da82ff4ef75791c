"""`--scaling clip`: means and biases spread, against the original method's steps part by part, in float64."""

import torch
from random_models import D_MODEL, N_HEADS, N_LAYERS
from second_order_reads import loaded_model, read
from torch import Tensor
from transformers import PreTrainedModel

from tracelake.collect.rereading.second_order.frozen_pass import FrozenPass
from tracelake.collect.rereading.second_order.head_paths import HeadPaths
from tracelake.collect.rereading.second_order.scorer import SecondOrderOptions
from tracelake.collect.rereading.second_order.spread_scores import SpreadScorer


def part_by_part(
    model: PreTrainedModel, frozen: FrozenPass, row: int, layer: int, parts: Tensor, direction: Tensor
) -> Tensor:
    """What `[column part d]` of the stream come to at T along the direction, with its share of means and biases."""
    blocks, width = model.transformer.h, parts.shape[1]
    real = frozen.real[row] > 0
    total = torch.zeros(width, dtype=torch.float64)
    for k in range(layer + 1, N_LAYERS):
        block, share = blocks[k], (1 + 2 * k) * width
        state = frozen.states["resid_pre"][k][row]
        mean, scale = state.mean(-1), (state.var(-1, unbiased=False) + block.ln_1.eps).sqrt()
        normed = block.ln_1.weight * (parts - mean[:, None, None] / share) / scale[:, None, None]
        normed = normed + block.ln_1.bias / share
        joint, bias = block.attn.c_attn.weight[:, 2 * D_MODEL :], block.attn.c_attn.bias[2 * D_MODEL :]
        values = (normed @ joint + bias / share).unflatten(-1, (N_HEADS, -1))
        for head in range(N_HEADS):
            weight = torch.where(real, frozen.weights[k][row, head], 0.0)
            attended = torch.einsum("i,ipe->pe", weight, torch.where(real[:, None, None], values[:, :, head], 0.0))
            size = values.shape[-1]
            written = attended @ block.attn.c_proj.weight[head * size : (head + 1) * size]
            written = written + block.attn.c_proj.bias / (share * N_HEADS)
            whole = share * N_HEADS * (1 + 2 * N_LAYERS)
            end = frozen.states["end"][0][row]
            norm = model.transformer.ln_f
            spread = (end.var(unbiased=False) + norm.eps).sqrt()
            final = norm.weight * (written - end.mean() / whole) / spread + norm.bias / whole
            total += final @ direction
    return 100 * total / frozen.final[row].norm()


def test_scores_are_those_of_the_original_steps() -> None:
    loaded = loaded_model("gpt2")
    one = read(loaded)[0]
    paths = HeadPaths(loaded, one.paths.direction, centred=False)
    one.frozen.mlp_post = dict(one.neurons)
    scores = list(SpreadScorer(paths, SecondOrderOptions(scaling="clip")).scores(one.frozen))
    checked = 0
    for row in range(len(one.batch.sequences)):
        for layer in range(N_LAYERS - 1):
            projection = loaded.model.transformer.h[layer].mlp.c_proj
            activation = one.neurons[layer][row]
            parts = activation.unsqueeze(-1) * projection.weight + projection.bias / activation.shape[-1]
            by_hand = part_by_part(loaded.model, one.frozen, row, layer, parts, paths.direction)
            size = max(1.0, float(by_hand.abs().max()))
            torch.testing.assert_close(scores[layer].second[row], by_hand, rtol=0, atol=1e-10 * size)
            assert float((scores[layer].second[row] - one.scores[layer].second[row]).abs().max()) > 1e-3
            checked += 1
    assert checked > 2 and float(scores[-1].second.abs().max()) == 0


def test_all_parts_of_the_stream_are_what_the_attention_adds() -> None:
    """The embedding and every earlier attention and MLP as sources of their own: nothing is counted twice or lost."""
    loaded = loaded_model("gpt2")
    one = read(loaded)[0]
    k, row = N_LAYERS - 1, 0
    states, width = one.frozen.states, 8
    terms = [states["resid_pre"][0]]
    for layer in range(k):
        terms += [states["attn_out"][layer], states["mlp_out"][layer]]
    summed = torch.zeros((), dtype=torch.float64)
    for term in terms:
        parts = (term[row] / width).unsqueeze(1).expand(-1, width, -1)
        summed = summed + part_by_part(loaded.model, one.frozen, row, k - 1, parts, one.paths.direction).sum()
    norm, end = loaded.model.transformer.ln_f, states["end"][0][row]
    spread, n = (end.var(unbiased=False) + norm.eps).sqrt(), 1 + 2 * N_LAYERS
    whole = norm.weight * (states["attn_out"][k][row, -1] - end.mean() / n) / spread + norm.bias / n
    expected = 100 * whole @ one.paths.direction / one.frozen.final[row].norm()
    torch.testing.assert_close(summed, expected, rtol=1e-10, atol=1e-10)
