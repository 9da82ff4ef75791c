"""A checkpoint that does not hold exactly the model's weights is an error that names them, never random numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_models import byte_tokenizer, random_encoder_decoder, random_model, save
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    GPT2ForSequenceClassification,
    LlamaForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
)

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.running.collector import Collection, resume_run
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError

Weights = dict[str, Tensor]


def changed(folder: Path, change: Callable[[Weights], Weights], **settings: object) -> Path:
    """The saved model with other weights or other settings in its config.json."""
    file, config = folder / "model.safetensors", folder / "config.json"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    return folder


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def shortened(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {k: v[:-1].clone() if part in k else v for k, v in weights.items()}


def renamed(weights: Weights) -> Weights:
    return {name.replace("self_attn.q_proj", "attention.wq"): value for name, value in weights.items()}


def same(weights: Weights) -> Weights:
    return weights


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (prefixed("_orig_mod."), {}, r"30 weights missing.*lm_head.weight.*_orig_mod.*torch.compile"),
        (prefixed("module."), {}, r"begin with 'module.'"),
        (without("layers.1.mlp.up_proj"), {}, r"1 weight missing.*: model.layers.1.mlp.up_proj.weight\."),
        (without("lm_head"), {}, r"missing in the checkpoint: lm_head.weight.*no language-modelling head"),
        (renamed, {}, r"3 weights missing.*q_proj.*3 weights in the checkpoint but not in the model.*attention.wq"),
        (shortened("layers.1.mlp.up_proj"), {}, r"another shape.*up_proj.weight \(file 63x48, model 64x48\)"),
        (same, {"num_hidden_layers": 2}, r"not in the model: model.layers.2.*more layers than the 2"),
        (same, {"num_hidden_layers": 4}, r"missing in the checkpoint: model.layers.3.*fewer layers than the 4"),
    ],
)  # fmt: skip
def test_gaps_are_named(
    change: Callable[[Weights], Weights], settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = changed(save(random_model("llama"), tmp_path), change, **settings)
    with pytest.raises(ConfigError, match=message) as caught:
        load_model(str(folder), device="cpu")
    assert caught.value.exit_code == 4 and "--allow-missing" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name"), [(GPT2ForSequenceClassification, "gpt2"), (LlamaForSequenceClassification, "llama")]
)
def test_a_classifier_is_no_language_model(kind: type, name: str, tmp_path: Path) -> None:
    model = kind(random_model(name).config)
    with pytest.raises(ConfigError, match=r"score\.weight"):
        load_model(str(save(model, tmp_path)), device="cpu")


def base_with_old_buffers(weights: Weights) -> Weights:
    base = {name.removeprefix("transformer."): value for name, value in weights.items()}
    return base | {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.0.attn.masked_bias": torch.tensor(-1e4)}


def bart_base(weights: Weights) -> Weights:
    return {name.removeprefix("model."): value for name, value in weights.items() if "final_logits" not in name}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", same),
        ("gpt2", base_with_old_buffers),
        ("gpt2", lambda w: w | {"lm_head.weight": w["transformer.wte.weight"].clone()}),
        ("llama", lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}),
    ],
)
def test_what_is_harmless_changes_nothing(name: str, change: Callable[[Weights], Weights], tmp_path: Path) -> None:
    model = random_model(name)
    loaded = load_model(str(changed(save(model, tmp_path), change)), device="cpu")
    ids = torch.arange(7)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, rtol=0, atol=0)
    assert not loaded.gaps and not any(name.endswith("_weights") for name in loaded.describe())


def test_a_base_model_of_bart_has_its_tied_head(tmp_path: Path) -> None:
    model = random_encoder_decoder("bart")
    model.final_logits_bias.zero_()
    loaded = load_model(str(changed(save(model, tmp_path), bart_base)), device="cpu")
    ids = torch.arange(7)[None]
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids, decoder_input_ids=ids).logits for m in (loaded.model, model))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_allowed_gaps_are_recorded_and_the_same_each_time(tmp_path: Path) -> None:
    folder = changed(save(random_model("llama"), tmp_path / "model"), without("layers.1.mlp.up_proj"))
    config = CollectConfig(
        model=str(folder), prompt="Tom has three", allow_missing=True, max_new_tokens=4, device="cpu"
    )
    lake = Lake.create(tmp_path / "lake")
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        collection = Collection(config)
        assert any("1 weight missing" in text for text in collection.notices)
        runs.append(collection.start(lake, assume_yes=True).run_id)
    about = lake.run_json(runs[0])
    assert about["model"]["missing_weights"] == ["model.layers.1.mlp.up_proj.weight"]
    assert about["config"]["allow_missing"] is True
    assert resume_run(lake, runs[0]) is None
    steps = lake.scan("token_steps").sort("position").collect().partition_by("run_id", as_dict=True)
    first, second = (frame["logprob"].to_list() for frame in steps.values())
    assert first == second


def test_an_expert_that_is_missing_is_named(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=300, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64,
    )  # fmt: skip
    folder = save(MixtralForCausalLM(config), tmp_path, byte_tokenizer())
    changed(folder, without("layers.1.block_sparse_moe.experts.2.w1"))
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.experts\.gate_up_proj"):
        load_model(str(folder), device="cpu")
