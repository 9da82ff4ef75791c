"""Weights of one block as second-order effects need them, read off by hand per architecture of `random_models`."""

from dataclasses import dataclass

import torch
from random_models import N_HEADS
from torch import Tensor
from transformers import PreTrainedModel


@dataclass
class BlockWeights:
    """Values `[value_head d_model d_head]`, outputs `[head d_head d_model]`, neurons `[neuron d_model]`, gains."""

    values: Tensor
    value_bias: Tensor
    outputs: Tensor
    output_bias: Tensor
    neurons: Tensor
    gain: Tensor
    shift: Tensor
    behind_attention: Tensor | None = None
    behind_mlp: Tensor | None = None


def block_weights(model: PreTrainedModel, architecture: str, layer: int) -> BlockWeights:
    """The weights of one block; norms of Gemma have the gain 1 + weight."""
    if architecture == "gpt2":
        block = model.transformer.h[layer]
        d = block.attn.c_proj.weight.shape[1]
        joint, bias = block.attn.c_attn.weight[:, 2 * d :], block.attn.c_attn.bias[2 * d :]
        return BlockWeights(
            joint.unflatten(1, (N_HEADS, -1)).permute(1, 0, 2), bias.unflatten(0, (N_HEADS, -1)),
            block.attn.c_proj.weight.unflatten(0, (N_HEADS, -1)), block.attn.c_proj.bias,
            block.mlp.c_proj.weight, block.ln_1.weight, block.ln_1.bias,
        )  # fmt: skip
    if architecture == "neox":
        block = model.gpt_neox.layers[layer]
        joint = block.attention.query_key_value.weight.unflatten(0, (N_HEADS, 3, -1))[:, 2]
        bias = block.attention.query_key_value.bias.unflatten(0, (N_HEADS, 3, -1))[:, 2]
        return BlockWeights(
            joint.transpose(1, 2), bias, block.attention.dense.weight.T.unflatten(0, (N_HEADS, -1)),
            block.attention.dense.bias, block.mlp.dense_4h_to_h.weight.T, block.input_layernorm.weight,
            block.input_layernorm.bias,
        )  # fmt: skip
    block = model.model.layers[layer]
    attention, shared = block.self_attn, model.config.num_key_value_heads
    if architecture == "phi3":
        weight, bias = attention.qkv_proj.weight.unflatten(0, (N_HEADS + 2 * shared, -1))[N_HEADS + shared :], None
    else:
        weight, bias = attention.v_proj.weight.unflatten(0, (shared, -1)), attention.v_proj.bias
    zero = torch.zeros(weight.shape[0], weight.shape[1], dtype=weight.dtype)
    plus = 1.0 if architecture == "gemma2" else 0.0
    gain = block.input_layernorm.weight + plus
    found = BlockWeights(
        weight.transpose(1, 2), zero if bias is None else bias.unflatten(0, (shared, -1)),
        attention.o_proj.weight.T.unflatten(0, (N_HEADS, -1)), torch.zeros_like(gain), block.mlp.down_proj.weight.T,
        gain, torch.zeros_like(gain),
    )  # fmt: skip
    if architecture == "gemma2":
        found.behind_attention = block.post_attention_layernorm.weight + plus
        found.behind_mlp = block.post_feedforward_layernorm.weight + plus
    return found


def final_weights(model: PreTrainedModel, architecture: str) -> Tensor:
    """The gain of the final norm."""
    if architecture == "gpt2":
        return model.transformer.ln_f.weight
    if architecture == "neox":
        return model.gpt_neox.final_layer_norm.weight
    return model.model.norm.weight + (1.0 if architecture == "gemma2" else 0.0)
