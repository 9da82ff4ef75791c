"""What an edit does, done to weights instead: projections, norms and embeddings of random models set to zero."""

import copy

import numpy as np
import torch
from random_models import D_MODEL, N_HEADS
from torch import nn
from transformers import PreTrainedModel


def blocks_of(model: PreTrainedModel, architecture: str) -> nn.ModuleList:
    if architecture == "gpt2":
        return model.transformer.h
    if architecture == "neox":
        return model.gpt_neox.layers
    if architecture.startswith("t5"):
        return model.decoder.block
    return model.model.layers


def projection(model: PreTrainedModel, architecture: str, site: str, layer: int) -> nn.Module:
    """The linear map whose output is what attention, cross-attention or MLP computes in a block."""
    block = blocks_of(model, architecture)[layer]
    if architecture == "gpt2":
        return {"attn_out": block.attn.c_proj, "mlp_out": block.mlp.c_proj}[site]
    if architecture == "neox":
        return {"attn_out": block.attention.dense, "mlp_out": block.mlp.dense_4h_to_h}[site]
    if architecture.startswith("t5"):
        own, cross, mlp = block.layer
        return {"attn_out": own.SelfAttention.o, "cross_attn_out": cross.EncDecAttention.o,
                "mlp_out": mlp.DenseReluDense.wo}[site]  # fmt: skip
    return {"attn_out": block.self_attn.o_proj, "mlp_out": block.mlp.down_proj}[site]


def input_projection(
    model: PreTrainedModel, architecture: str, site: str, layer: int
) -> tuple[nn.Module, slice | np.ndarray]:
    """The linear map that gives an attention's queries, keys or values, and which of its outputs those are."""
    block, part = blocks_of(model, architecture)[layer], "qkv".index(site.removeprefix("rot_"))
    if architecture == "gpt2":
        return block.attn.c_attn, slice(part * D_MODEL, (part + 1) * D_MODEL)
    if architecture == "neox":
        # Queries, keys and values of one head lie beside each other.
        outputs = np.arange(3 * D_MODEL).reshape(N_HEADS, 3, D_MODEL // N_HEADS)
        return block.attention.query_key_value, outputs[:, part].reshape(-1)
    if architecture.startswith("t5"):
        return getattr(block.layer[0].SelfAttention, "qkv"[part]), slice(None)
    return getattr(block.self_attn, f"{'qkv'[part]}_proj"), slice(None)


def weights_of(module: nn.Module) -> torch.Tensor:
    """Its weights as `[output input]`; GPT-2 stores them the other way round."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


def silence(model: PreTrainedModel, architecture: str, site: str, layer: int) -> PreTrainedModel:
    """A copy of the model whose weights and biases make a site zero."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        if site in ("v", "rot_q", "rot_k", "q", "k"):
            module, outputs = input_projection(model, architecture, site, layer)
            weights_of(module)[outputs] = 0.0
            if getattr(module, "bias", None) is not None:
                module.bias[outputs] = 0.0
        elif site in ("z", "mlp_post"):
            # The projection reads nothing; what its bias adds stays.
            projection(model, architecture, "attn_out" if site == "z" else "mlp_out", layer).weight.zero_()
        elif site == "final_norm":
            _silence_final_norm(model, architecture)
        elif site.startswith("resid"):
            _silence_stream(model, architecture, site, layer)
        else:
            _silence_part(model, architecture, site, layer)
    return model


def _silence_stream(model: PreTrainedModel, architecture: str, site: str, layer: int) -> None:
    """The stream is zero where neither the embeddings nor anything before the site writes to it."""
    _silence_embeddings(model, architecture)
    parts = ("attn_out", "cross_attn_out", "mlp_out") if architecture.startswith("t5") else ("attn_out", "mlp_out")
    n_parts = {"resid_pre": 0, "resid_mid": 1, "resid_mid_cross": 2, "resid_post": len(parts)}[site]
    for below in range(layer + 1):
        for part in parts if below < layer else parts[:n_parts]:
            _silence_part(model, architecture, part, below)


def _silence_part(model: PreTrainedModel, architecture: str, site: str, layer: int) -> None:
    if architecture == "gemma2":
        block = blocks_of(model, architecture)[layer]
        norm = block.post_attention_layernorm if site == "attn_out" else block.post_feedforward_layernorm
        norm.weight.fill_(-1.0)  # its gain is 1 + weight
        return
    module = projection(model, architecture, site, layer)
    module.weight.zero_()
    if getattr(module, "bias", None) is not None:
        module.bias.zero_()


def _silence_embeddings(model: PreTrainedModel, architecture: str) -> None:
    if architecture.startswith("t5"):
        model.decoder.embed_tokens = _zeros_like(model.decoder.embed_tokens)
        return
    model.set_input_embeddings(_zeros_like(model.get_input_embeddings()))
    if architecture == "gpt2":
        model.transformer.wpe.weight.zero_()


def _zeros_like(embedding: nn.Embedding) -> nn.Embedding:
    """An embedding of its own: the head may share the weights of the first one."""
    silent = copy.deepcopy(embedding)
    silent.weight = nn.Parameter(torch.zeros_like(embedding.weight))
    return silent


def _silence_final_norm(model: PreTrainedModel, architecture: str) -> None:
    norm = {
        "gpt2": lambda: model.transformer.ln_f,
        "neox": lambda: model.gpt_neox.final_layer_norm,
        "t5": lambda: model.decoder.final_layer_norm,
    }.get(architecture, lambda: model.model.norm)()
    norm.weight.fill_(-1.0 if architecture == "gemma2" else 0.0)
    if getattr(norm, "bias", None) is not None:
        norm.bias.zero_()
