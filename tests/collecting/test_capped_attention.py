"""Attention scores that a model caps are capped, whichever kernel transformers would choose for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from plain_pass import PlainReader
from random_models import PROMPTS, random_model, save
from transformers import AutoModelForCausalLM
from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError


@pytest.fixture
def capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Gemma-2 with a low cap, of a transformers that takes torch's fused kernel for it, as 5.17 does by default."""
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)
    model = random_model("gemma2")
    model.config.attn_logit_softcapping = 2.0
    return save(model, tmp_path / "model")


def test_the_cap_is_computed(capped: Path, tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    Collection(CollectConfig(model=str(capped), prompt=PROMPTS[:1], max_new_tokens=4, device="cpu")).start(lake)
    rows = lake.sql("select token_id, logprob from token_steps order by position")
    tokens = rows["token_id"].to_numpy().astype(np.int64)
    logprobs = torch.from_numpy(PlainReader(capped, AutoModelForCausalLM).read(tokens).logits).log_softmax(-1).numpy()
    expected = logprobs[np.arange(len(tokens) - 1), tokens[1:]]
    assert np.allclose(rows["logprob"].to_numpy()[1:], expected, rtol=1e-4, atol=1e-5)


def test_a_kernel_without_the_cap_is_refused_when_asked_for(capped: Path) -> None:
    with pytest.raises(ConfigError, match="attn_logit_softcapping"):
        load_model(str(capped), attn_implementation="sdpa")
