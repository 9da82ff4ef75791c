"""Logits come from the states of whatever module the head really reads; other heads are refused."""

from pathlib import Path

import pytest
import torch
from random_models import byte_tokenizer, save
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    FalconConfig,
    Glm4Config,
    MarianConfig,
    OPTConfig,
    PegasusConfig,
    PreTrainedConfig,
    ProphetNetConfig,
    TrOCRConfig,
    WhisperConfig,
)

from tracelake.collect.models.loading.load import load_model
from tracelake.collect.models.sites.taps import Tap
from tracelake.lake.errors import ConfigError

IDS = torch.arange(3, 9)[None]
LLAMA = {
    "vocab_size": 300, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64, "pad_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
OPT = {"vocab_size": 300, "hidden_size": 48, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
       "max_position_embeddings": 64, "pad_token_id": 2, "eos_token_id": 1}  # fmt: skip
BART = {"vocab_size": 300, "d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
        "pad_token_id": 2, "eos_token_id": 1}  # fmt: skip
CONFIGS = {
    "opt": OPTConfig(**OPT, word_embed_proj_dim=48),
    "opt-350m": OPTConfig(**OPT, word_embed_proj_dim=24, do_layer_norm_before=False),
    "bart": BartConfig(**BART),
    "marian": MarianConfig(**BART, decoder_start_token_id=2, decoder_vocab_size=300),
    "pegasus": PegasusConfig(**BART),
    "trocr": TrOCRConfig(**{key: BART[key] for key in ("vocab_size", "d_model", "decoder_layers", "pad_token_id")},
                         decoder_attention_heads=4, decoder_ffn_dim=64, max_position_embeddings=64),
    "whisper": WhisperConfig(**{**BART, "max_position_embeddings": 64}, max_target_positions=64),
}  # fmt: skip


def saved(config: PreTrainedConfig, folder: Path) -> tuple[torch.nn.Module, Path]:
    """A random model with weights that are far from degenerate, and its folder."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(12.0) if parameter.ndim > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
    return model, save(model, folder, byte_tokenizer())


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_come_from_the_states_of_the_base_model(name: str, tmp_path: Path) -> None:
    model, folder = saved(CONFIGS[name], tmp_path)
    loaded = load_model(str(folder), device="cpu")
    with torch.no_grad():
        states = loaded.decoder.module(input_ids=IDS, use_cache=False).last_hidden_state[0]
        wanted = model(input_ids=IDS, use_cache=False).logits[0]
        torch.testing.assert_close(loaded.unembed(states), wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(loaded.unembed(states.flip(0)), wanted)


def test_a_head_that_reads_other_states_is_refused(tmp_path: Path) -> None:
    config = ProphetNetConfig(
        vocab_size=300, hidden_size=48, num_encoder_layers=2, num_decoder_layers=2, num_encoder_attention_heads=4,
        num_decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        is_encoder_decoder=False, is_decoder=True,
    )  # fmt: skip
    loaded = load_model(str(saved(config, tmp_path)[1]), device="cpu")
    with pytest.raises(ConfigError, match="ProphetNetForCausalLM cannot be collected: its head"), torch.no_grad():
        loaded.unembed(torch.randn(4, 48))


FALCON = FalconConfig(vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=4)


@pytest.mark.parametrize("config", [Glm4Config(**LLAMA), FALCON])
def test_all_sites_where_norms_or_additions_mislead(config: PreTrainedConfig, tmp_path: Path) -> None:
    """GLM-4 has two norms with a likely name; Falcon writes over what its MLP returned."""
    _, folder = saved(config, tmp_path)
    loaded = load_model(str(folder), device="cpu")
    keys = {(site, 1) for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")}
    tap = Tap(loaded.decoder.anatomy, keys)
    with tap.attached(), torch.no_grad():
        loaded.decoder.module(input_ids=IDS, use_cache=False)
        pre, attention, mlp, post = (tap.states[s, 1] for s in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
    torch.testing.assert_close(pre + attention + mlp, post, rtol=1e-4, atol=1e-4)
