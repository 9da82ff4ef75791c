"""Every causal and sequence-to-sequence architecture of the installed transformers, and how its configuration shrinks.

One table of small values serves all: a configuration takes those of its own fields. What needs more stands in
OVERRIDES, with the reason.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from random_models import D_VOCAB
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

N_LAYERS, CONTEXT, WINDOW, START = 4, 160, 9, 2

SMALL: dict[str, Any] = {
    # widths
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "intermediate_size": 48, "d_ff": 48, "n_inner": 48, "ffn_dim": 48,
    "decoder_ffn_dim": 48, "encoder_ffn_dim": 40, "ffn_hidden_size": 48, "dff": 48, "dim_ff": 48,
    "feed_forward_size": 48,
    "head_dim": 8, "d_kv": 8, "kv_channels": 8, "dim_head": 8, "d_head": 8, "attention_head_size": 8,
    "moe_intermediate_size": 24, "expert_ffn_hidden_size": 24, "shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24, "shared_experts_intermediate_size": 24, "moe_shared_expert_intermediate_size": 24,
    "intermediate_size_mlp": 48, "dense_intermediate_size": 48, "prefix_dense_intermediate_size": 48,
    "embedding_size": 16, "emb_dim": 32, "word_embed_proj_dim": 32, "embedding_dim": 32,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": D_VOCAB,
    # depth and heads
    "num_hidden_layers": N_LAYERS, "n_layer": N_LAYERS, "n_layers": N_LAYERS, "num_layers": N_LAYERS,
    "decoder_layers": 3, "encoder_layers": 2, "num_decoder_layers": 3, "num_encoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "num_key_value_heads": 2, "num_kv_heads": 2,
    "decoder_attention_heads": 4, "encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4, "attention_heads": 4,
    "swa_head_dim": 8, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2,
    # latent attention
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "qk_head_dim": 16, "index_head_dim": 8, "index_n_heads": 16, "index_topk": 8, "o_groups": 2, "o_lora_rank": 16,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_k": 2, "moe_topk": 2, "top_k_experts": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "zero_expert_num": 1, "n_shared_experts": 1, "num_shared_experts": 1, "moe_num_shared_experts": 1,
    "router_hidden_size": 16, "moe_latent_size": 16,
    # states
    "state_size": 8, "ssm_state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8,
    "mamba_num_heads": 8, "mamba_head_dim": 8, "n_mamba_heads": 2, "mamba_headdim": 8, "mamba_n_groups": 1,
    "mamba_ngroups": 1, "n_groups": 1, "mamba_expand": 2, "expand": 2, "mamba_chunk_size": 8, "chunk_size": 8,
    "time_step_rank": 4, "mamba_dt_rank": 4, "lru_width": 32, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_head_dim": 8, "linear_num_heads": 4,
    "attention_hidden_size": 32, "block_size": 16, "hidden_size_global": 32, "encoder_hash_byte_group_vocab": 50,
    "rotary_dim": 4, "hc_lowrank": 16, "adapter_rank": 8, "laurel_rank": 8, "hidden_dim": 32,
    "encoder_hidden_size": 32,
    # positions and words
    "vocab_size": D_VOCAB, "decoder_vocab_size": D_VOCAB, "src_vocab_size": D_VOCAB, "tgt_vocab_size": D_VOCAB,
    "unpadded_vocab_size": D_VOCAB, "max_position_embeddings": CONTEXT, "n_positions": CONTEXT, "n_ctx": CONTEXT,
    "max_seq_len": CONTEXT, "context_length": CONTEXT, "max_encoder_position_embeddings": CONTEXT,
    "max_decoder_position_embeddings": CONTEXT, "max_target_positions": CONTEXT,
    "sliding_window": WINDOW, "sliding_window_size": WINDOW, "window_size": WINDOW, "attention_window_size": WINDOW,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None,
    "sep_token_id": 1, "cls_token_id": 0, "mask_token_id": 3,
    "is_decoder": True,
}  # fmt: skip
"""Sizes of a tiny model by the name that configurations give them; windows are shorter than prompts."""

OF_PARTS = ("vision_config", "audio_config", "vq_config", "semantic_tokenizer_encoder_config")


@dataclass(frozen=True)
class Override:
    """What a configuration needs besides SMALL, and why."""

    reason: str
    values: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    """Values of the text part of a wrapper."""
    drop: tuple[str, ...] = ()
    """Names that keep the default of transformers."""


FULL, SLIDING, LINEAR, HYBRID = "full_attention", "sliding_attention", "linear_attention", "hybrid"
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_BERT = {
    "model_type": "bert", "vocab_size": D_VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": CONTEXT, "pad_token_id": 2,
}  # fmt: skip

_ASSISTANT = {
    "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0, "layer_types": [SLIDING, FULL] * 2,
    "num_kv_shared_layers": 4,
}  # fmt: skip
_VIBE = {"hidden_size": 32, "num_filters": 2, "depths": [1] * 7}

OVERRIDES: dict[str, Override] = {
    "cohere_compass_text": Override(
        "rotary embeddings by kind of layer",
        {"layer_types": [SLIDING, FULL] * 2, "rope_parameters": {FULL: _ROPE, SLIDING: _ROPE}},
    ),
    "dbrx": Override(
        "attention has a configuration of its own, which lacks its base",
        {"attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0}},
    ),
    "dots3_note": Override(
        "depth of the vision tower is a list",
        {
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "mlp_layer_types": ["dense"] * 2,
                "adapter_in_dim": 32,
                "adapter_out_dim": 32,
            },  # fmt: skip
            "audio_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "downsample_hidden_size": 8,
                "adapter_input_size": 32,
                "adapter_out_dim": 32,
            },  # fmt: skip
        },
    ),
    "encoder-decoder": Override(
        "made of two models",
        {"encoder": _BERT, "decoder": {**_BERT, "is_decoder": True, "add_cross_attention": True}},
    ),
    "falcon_h1": Override("width of the state = heads x width of a head", {"mamba_d_ssm": 64}),
    "gemma3n_text": Override(
        "layers that share keys need one of each kind before them",
        {"layer_types": [SLIDING, FULL] * 2, "num_kv_shared_layers": 2},
    ),
    "gemma4_assistant": Override(
        "layers that share keys need one of each kind before them",
        text=_ASSISTANT,
    ),
    "gemma4_unified_assistant": Override(
        "layers that share keys need one of each kind before them",
        text=_ASSISTANT,
    ),
    "gpt_neo": Override("kinds of attention per layer", {"attention_types": [[["global", "local"], 2]]}),
    "led": Override("padding to the window must fit the context", {"attention_window": 8}),
    "lfm2_moe": Override("no default kinds of layers", {"layer_types": ["conv", FULL] * 2}),
    "mamba2": Override("heads x width of a head = twice the width", {"num_heads": 8}),
    "qwen4_exp_text": Override("no default sizes of the indexer", {}),
    "reformer": Override(
        "positions are a product of two axes",
        {
            "axial_pos_shape": (16, 10),
            "axial_pos_embds_dim": (16, 16),
            "attn_layers": ("local", "lsh") * 2,
            "local_attn_chunk_length": 8,
            "lsh_attn_chunk_length": 8,
        },  # fmt: skip
    ),
    "vibevoice_asr": Override(
        "depth of the audio towers is a list",
        {"acoustic_tokenizer_encoder_config": _VIBE, "semantic_tokenizer_encoder_config": _VIBE},
    ),
    "xmod": Override("a language must be chosen", {"default_language": "en_XX"}),
    "zamba": Override(
        "the shared block must occur twice",
        {
            "num_hidden_layers": 6,
            "layers_block_type": [LINEAR, LINEAR, HYBRID, LINEAR, HYBRID, LINEAR],
            "attention_hidden_size": 64,
            "num_key_value_heads": 4,
        },  # fmt: skip
    ),
    "zamba2": Override(
        "the shared block must occur twice",
        {"layers_block_type": [LINEAR, HYBRID, LINEAR, HYBRID], "n_mamba_heads": 8},
        drop=("num_key_value_heads",),
    ),
    "zaya": Override("only one expert per token", {"num_experts_per_tok": 1}),
}
_INDEXER = {
    "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
    "indexer_compress_ratio": 2, "heads_per_ngram": 2, "ngram_vocab_size_base": 100, "split_ngram_parts": 1,
    "make_ngram_vocab_size_divisible_by": 1,
}  # fmt: skip
OVERRIDES["qwen4_exp_text"] = Override("no default sizes of the indexer", _INDEXER)
OVERRIDES["qwen4_exp"] = Override("no default sizes of the indexer", text=_INDEXER)


SEQ_TO_SEQ = frozenset(f"{kind}:{name}" for kind, name in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.items())


def model_types() -> dict[str, str]:
    """Class name of every architecture by `model_type:class`; a class may serve several types."""
    both = (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    return {f"{kind}:{name}": name for mapping in both for kind, name in mapping.items()}


def default_config(kind: str) -> PreTrainedConfig:
    """The configuration of the model type as transformers makes it."""
    return CONFIG_MAPPING[kind]()


def tiny_config(kind: str) -> PreTrainedConfig:
    """A small configuration of the model type."""
    override = OVERRIDES.get(kind, Override(""))
    return _shrunk(CONFIG_MAPPING[kind], override.values, override.text, override.drop)


def _shrunk(
    make: type[PreTrainedConfig], values: dict[str, Any], text: dict[str, Any], drop: tuple[str, ...]
) -> PreTrainedConfig:
    own = {each.name for each in fields(make)}
    chosen = {name: value for name, value in SMALL.items() if name in own and name not in drop}
    if "kv_lora_rank" in own:
        # Latent attention has a key of its own for every head.
        chosen["num_key_value_heads"] = SMALL["num_attention_heads"]
    for name, part in make.sub_configs.items():
        if name in values:
            continue
        if part is AutoConfig:
            part = CONFIG_MAPPING[make.sub_configs_defaults[name].model_type]
        if issubclass(part, PreTrainedConfig):
            chosen[name] = _shrunk(part, text if "text" in name else {}, {}, drop)
    return make(**{**chosen, **values})
