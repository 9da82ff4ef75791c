"""Small random models that cannot all be read in padded batches, in chunks and through a cache of keys.

Weights are large, as in `random_models`, where they are small to begin with (decay rates of recurrent layers are not).
"""

from pathlib import Path

import torch
from random_models import CONTEXT, D_HEAD, D_MLP, D_MODEL, D_VOCAB, END_IDS, N_HEADS, N_LAYERS, N_SHARED, SCALE, save
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

SHAPE = {
    "vocab_size": D_VOCAB, "hidden_size": D_MODEL, "intermediate_size": D_MLP, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS, "num_key_value_heads": N_SHARED, "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
MAMBA2 = {
    "mamba_n_heads": 8, "mamba_d_head": 12, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_expand": 2,
    "mamba_chunk_size": 4,
}  # fmt: skip
DELTA = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"], "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": D_HEAD,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

RECURRENT = {
    "mamba": {"state_size": 8, "time_step_rank": 4, "expand": 2},
    "falcon_mamba": {"state_size": 8, "time_step_rank": 4, "expand": 2},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 12, "n_groups": 2, "expand": 2, "chunk_size": 4},
    "rwkv": {"attention_hidden_size": D_MODEL, "context_length": CONTEXT},
    "xlstm": {"num_heads": 4, "num_blocks": 3, "chunk_size": 8, "qk_dim_factor": 0.5, "v_dim_factor": 1.0},
}
"""Without attention."""

HYBRID = {
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "num_experts_per_tok": 1,
        "mamba_dt_rank": 4, "mamba_d_state": 8, "use_mamba_kernels": False,
    },
    "recurrent_gemma": {"lru_width": D_MODEL, "attention_window_size": 16, "head_dim": D_HEAD},
    "qwen3_next": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_5_text": DELTA,
    "bamba": {"attn_layer_indices": [1], **MAMBA2},
    "zamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "n_mamba_heads": 2, "mamba_d_state": 8, "mamba_dt_rank": 4,
        "attention_hidden_size": 96, "attention_head_dim": 24, "use_mamba_kernels": False,
    },
    "zamba2": {
        "mamba_d_state": 8, "mamba_headdim": 12, "mamba_ngroups": 1, "n_mamba_heads": 8, "mamba_expand": 2,
        "chunk_size": 4, "num_mem_blocks": 1, "use_mem_rope": True, "num_key_value_heads": N_HEADS,
        "layers_block_type": ["mamba", "hybrid", "mamba"], "hybrid_layer_ids": [1],
    },
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention", "mamba"], "mamba_num_heads": 8, "mamba_head_dim": 12,
        "ssm_state_size": 8, "n_groups": 1, "chunk_size": 4, "head_dim": D_HEAD,
    },
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 2, "num_experts_per_tok": 1,
        "shared_intermediate_size": 32, **MAMBA2,
    },
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    "olmo_hybrid": {**DELTA, "linear_num_key_heads": 4},
    "kimi_linear": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"], "linear_num_heads": 4,
        "linear_head_dim": 8, "linear_attn_config": {
            "kda_layers": [1, 3], "full_attn_layers": [2], "num_heads": 4, "head_dim": 8, "short_conv_kernel_size": 4,
        },
        "kv_lora_rank": 16, "q_lora_rank": None, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12,
        "num_key_value_heads": N_HEADS, **EXPERTS, "num_experts_per_token": 2, "n_group": 1, "topk_group": 1,
    },
    "falcon_h1": {"mamba_d_ssm": 96, "head_dim": D_HEAD, **MAMBA2},
}  # fmt: skip
"""With layers that attend and layers that carry a state."""

UNCACHED = {"openai-gpt": {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_positions": CONTEXT}}
COUNTING = {name: {"is_decoder": True} for name in ("roberta", "camembert", "xlm-roberta", "xlm-roberta-xl", "bert")}
"""Positions count the tokens that are not padding, from its id on (except in BERT)."""

OTHER = {"opt": {"ffn_dim": D_MLP, "word_embed_proj_dim": D_MODEL}}

UNUSUAL = {**RECURRENT, **HYBRID, **UNCACHED, **COUNTING, **OTHER}


def unusual_model(name: str, *, seed: int = 0, **options: object) -> PreTrainedModel:
    """A model of a named architecture; `options` of its configuration win over the ones above."""
    config = CONFIG_MAPPING[name](**{**SHAPE, **UNUSUAL.get(name, {}), **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim < 2:
                    parameter.add_(0.3 * torch.randn_like(parameter))
                elif parameter.std() < 0.1:
                    parameter.mul_(SCALE)
    model.generation_config.eos_token_id = list(END_IDS)
    return model.eval()


def save_unusual(name: str, folder: Path, **options: object) -> Path:
    """Write such a model with a tokenizer as a folder, and return it."""
    return save(unusual_model(name, **options), folder)
