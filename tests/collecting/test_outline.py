"""A plan made without weights is the plan made with them, for every architecture; nothing of a checkpoint is read."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_models import ARCHITECTURES, ENCODER_DECODERS, PROMPTS, byte_tokenizer, save
from tiny_architectures import tiny_config
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, GPTJConfig

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.models.loading.outline import outline
from tracelake.collect.observing.attention_layers import observable_attention
from tracelake.collect.running.collector import Collection
from tracelake.lake.errors import ConfigError

KEEP = ("tokens", "layers", "heads", "activations:resid_post", "activations:z", "activations:mlp_post@0")


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *ENCODER_DECODERS])
def test_outline_plans_as_the_loaded_model_does(architecture: str, model_folder: Callable[[str], Path]) -> None:
    folder = model_folder(architecture)
    config = CollectConfig(model=str(folder), prompt=PROMPTS, max_new_tokens=9, keep=KEEP, device="cpu")
    shell, whole = Collection(config, weights=False), Collection(config)
    assert shell.loaded.is_shell and not whole.loaded.is_shell
    # Whether sequences may take the places of others is tried with the weights: BART's positions forbid it.
    assert replace(whole.plan, reading=replace(whole.plan.reading, separate=False)) == shell.plan
    assert whole.plan.reading.separate == (architecture in ("bart", "mbart"))
    assert shell.estimate() == whole.estimate()
    assert shell.kept == whole.kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_outline_has_the_number_format_of_the_checkpoint(dtype: str, tmp_path: Path) -> None:
    """Named by the configuration, or, where that is silent, found in the file."""
    model = AutoModelForCausalLM.from_config(ARCHITECTURES["llama"].make(), dtype=getattr(torch, dtype))
    folder = save(model, tmp_path)
    assert outline(str(folder)).model.dtype == load_model(str(folder)).model.dtype == getattr(torch, dtype)
    about = json.loads((folder / "config.json").read_text())
    assert about.pop("dtype") == dtype
    (folder / "config.json").write_text(json.dumps(about))
    assert outline(str(folder)).model.dtype == load_model(str(folder)).model.dtype == getattr(torch, dtype)
    assert outline(str(folder), dtype="float16").model.dtype == torch.float16


def test_a_folder_without_weights_can_be_planned(tmp_path: Path) -> None:
    """What somebody has before the download of 140 GB."""
    ARCHITECTURES["llama"].make().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    estimate = Collection(CollectConfig(model=str(tmp_path), prompt=PROMPTS), weights=False).estimate()
    assert estimate.n_sequences == len(PROMPTS) and estimate.n_bytes > 0


@pytest.mark.parametrize("kind", [FalconConfig, GPTJConfig, BloomConfig, None])
def test_outline_knows_whose_attention_is_observed(kind: type | None, tmp_path: Path) -> None:
    sizes = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ARCHITECTURES["neox"].make() if kind is None else kind(**sizes)
    if kind is GPTJConfig:
        config = GPTJConfig(vocab_size=300, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64)
    folder = save(AutoModelForCausalLM.from_config(config), tmp_path)
    assert observable_attention(outline(str(folder))) == observable_attention(load_model(str(folder)))


@pytest.mark.parametrize("kind", ["modernbert-decoder", "phi4_multimodal", "git"])
def test_several_lists_of_blocks_are_told_apart_by_shapes(kind: str, tmp_path: Path) -> None:
    """Towers for images and sound; a head that calls itself the decoder."""
    folder = save(AutoModelForCausalLM.from_config(tiny_config(kind)), tmp_path)
    keep = ("tokens", "layers", "activations:resid_post")
    config = CollectConfig(model=str(folder), prompt=PROMPTS, max_new_tokens=2, keep=keep, device="cpu")
    shell, whole = Collection(config, weights=False), Collection(config)
    assert shell.loaded.is_shell and shell.estimate() == whole.estimate()
    assert shell.loaded.model.config._attn_implementation == whole.loaded.model.config._attn_implementation


def test_what_cannot_be_planned_says_so(tmp_path: Path) -> None:
    two_encoders = tiny_config("t5gemma2")
    two_encoders.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="Leave out --dry-run"):
        Collection(CollectConfig(model=str(tmp_path), prompt="a", max_new_tokens=1), weights=False)
    tiny_config("whisper").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="of the kind whisper"):
        Collection(CollectConfig(model=str(tmp_path), prompt="a", max_new_tokens=1), weights=False)


def test_errors_of_a_plan_come_without_weights_too(model_folder: Callable[[str], Path]) -> None:
    config = CollectConfig(model=str(model_folder("gpt2")), prompt="a", keep=("activations:resid_post@99",))
    with pytest.raises(ConfigError, match="There is no layer 99"):
        Collection(config, weights=False)
    assert "torch" in sys.modules
