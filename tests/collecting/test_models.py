"""The page of all architectures is complete and true: one of every kind is tried again (`docs/models.py` tries all)."""

import importlib.util
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from model_trial import try_model
from tiny_architectures import OVERRIDES, model_types, tiny_config

import tracelake

ROOT = Path(tracelake.__file__).parent
KINDS = {
    "plain": "gpt2:GPT2LMHeadModel",
    "shared keys": "llama:LlamaForCausalLM",
    "parallel blocks": "gpt_neox:GPTNeoXForCausalLM",
    "soft cap": "gemma2:Gemma2ForCausalLM",
    "window": "mistral:MistralForCausalLM",
    "window that the model ignores": "moshi:MoshiForCausalLM",
    "chosen keys": "deepseek_v32:DeepseekV32ForCausalLM",
    "sinks": "gpt_oss:GptOssForCausalLM",
    "sinks per query": "inkling2_text:Inkling2ForCausalLM",
    "layers of unlike width": "gemma4_text:Gemma4ForCausalLM",
    "a layer that adds something else": "gpt_neox_japanese:GPTNeoXJapaneseForCausalLM",
    "experts": "mixtral:MixtralForCausalLM",
    "hybrid": "qwen3_next:Qwen3NextForCausalLM",
    "state space": "mamba:MambaForCausalLM",
    "no cache": "openai-gpt:OpenAIGPTLMHeadModel",
    "positions behind the padding id": "roberta:RobertaForCausalLM",
    "encoder-decoder": "t5:T5ForConditionalGeneration",
    "refused, not causal": "xlnet:XLNetLMHeadModel",
    "refused, of several texts": "musicgen:MusicgenForCausalLM",
    "refused, several streams": "deepseek_v4:DeepseekV4ForCausalLM",
}


def _script() -> ModuleType:
    path = ROOT / "docs" / "models.py"
    spec = importlib.util.spec_from_file_location("script_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()
ROWS = [
    line for line in (ROOT / "docs" / "models.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")
]


def test_every_architecture_has_a_row() -> None:
    named = {tuple(cell.strip(" `") for cell in row.split("|")[1:3]) for row in ROWS}
    assert named == {tuple(reversed(key.split(":"))) for key in model_types()}


def test_no_architecture_is_wrong() -> None:
    verdicts = {row.split("|")[3].split(":")[0].strip() for row in ROWS}
    assert verdicts <= set(SCRIPT.WORDS.values())


# What transformers says of missing kernels and odd configurations concerns tiny models only.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", KINDS.values(), ids=[kind.replace(" ", "-") for kind in KINDS])
def test_one_of_every_kind_is_as_the_page_says(key: str) -> None:
    with torch.random.fork_rng():
        outcome = try_model(key)
    assert not outcome.problems
    assert SCRIPT.row_of(asdict(outcome)) in ROWS


def test_overrides_concern_model_types_that_exist() -> None:
    kinds = {key.split(":")[0] for key in model_types()}
    assert set(OVERRIDES) <= kinds
    assert all(override.reason for override in OVERRIDES.values())
    assert tiny_config("llama").hidden_size == 32
