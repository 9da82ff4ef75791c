"""Where only some layers have attention those are observed; vectors of the others are refused before the run."""

from pathlib import Path

import polars as pl
import pytest
import torch
from random_models import byte_tokenizer, save
from transformers import AutoModelForCausalLM, DiffLlamaConfig, FalconConfig, Lfm2Config, PreTrainedConfig

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError

SHAPE = {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
         "eos_token_id": 1}  # fmt: skip
LFM2 = Lfm2Config(**SHAPE, layer_types=["conv", "full_attention", "conv"])
FALCON = FalconConfig(vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=4)


def collection(config: PreTrainedConfig, folder: Path, *keep: str) -> Collection:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(12.0 if parameter.ndim > 1 else 1.0)
    save(model, folder, byte_tokenizer())
    prompts = ("Tom has three apples", "a")
    return Collection(CollectConfig(model=str(folder), prompt=prompts, max_new_tokens=3, keep=keep, device="cpu"))


def test_a_hybrid_has_heads_in_its_attention_layers(tmp_path: Path) -> None:
    made = collection(LFM2, tmp_path / "model", "tokens", "layers", "heads", "activations:v@1")
    lake = Lake.create(tmp_path / "lake")
    run = made.start(lake, assume_yes=True).run_id
    assert set(lake.scan("head_summaries").collect()["layer"]) == {1}
    layers = lake.scan("layer_summaries").filter(pl.col("site") == "resid_post").collect()
    known = layers.filter(pl.col("attn_entropy_bits_mean").is_not_null())
    assert set(known["layer"]) == {1} and set(layers["layer"]) == {0, 1, 2}
    assert "layers 0, 2 of Lfm2ForCausalLM" in lake.run_json(run)["unmeasured"]["head_summaries"]


@pytest.mark.parametrize(
    ("config", "keep", "message"),
    [
        (LFM2, "activations:v", r"Site v of layer 0 cannot be kept.*activations:v@1"),
        (FALCON, "activations:rot_q", "Site rot_q of layer 0 cannot be kept: Falcon"),
        (DiffLlamaConfig(**SHAPE), "activations:v", "two sets of values"),
    ],
)
def test_vectors_of_an_attention_that_is_not_observed(
    config: PreTrainedConfig, keep: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        collection(config, tmp_path, "tokens", keep)


def test_an_attention_that_is_called_twice_gives_each_edge_once(tmp_path: Path) -> None:
    made = collection(DiffLlamaConfig(**SHAPE), tmp_path / "model", "tokens", "edges", "heads")
    lake = Lake.create(tmp_path / "lake")
    made.start(lake, assume_yes=True)
    edges = lake.scan("attention_edges").select("sequence_id", "position", "layer", "head", "key").collect()
    assert edges.height > 0 and edges.is_unique().all()
