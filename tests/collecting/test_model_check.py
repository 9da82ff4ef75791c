"""Models that do not compute the same in a batch, in chunks or through a cache are read so that they do, or refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain_sequences import PlainCausal, check_run, collect, sequences_of
from random_models import PROMPTS, byte_tokenizer, random_model, save
from transformers import AutoModelForCausalLM, PreTrainedModel
from unusual_models import COUNTING, OTHER, RECURRENT, UNCACHED, save_unusual, unusual_model

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding.reading.check import choose_reading
from tracelake.collect.decoding.reading.reading import Reading
from tracelake.collect.models.model import LoadedModel
from tracelake.collect.running.collector import Collection
from tracelake.collect.running.planning.plan import Plan
from tracelake.lake.errors import ConfigError

SAMPLED = {"samples": 2, "temperature": 1.0, "top_k": 40, "batch_size": 4, "seed": 3}
QUICK = ("mamba", "openai-gpt", "roberta")
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in (*RECURRENT, *UNCACHED, *COUNTING, *OTHER)
]


@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_that_of_a_plain_pass(name: str, tmp_path: Path) -> None:
    folder = save_unusual(name, tmp_path / "model")
    plain = PlainCausal(folder)
    lengths: set[int] = set()
    for settings in ({}, SAMPLED):
        lake, run = collect(folder, tmp_path / str(len(settings)), **settings)
        check_run(lake, run.run_id, plain.read, greedy=not settings)
        lengths |= {int((~tokens["is_prompt"]).sum()) for tokens in sequences_of(lake, run.run_id).values()}
    assert len(lengths) > 1, "all sequences end together: nothing is tried"


def reading_of(model: PreTrainedModel) -> Reading:
    return choose_reading(LoadedModel("a model", model, byte_tokenizer(), model.device))


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("mamba", {"whole_prompts", "equal_lengths"}),
        ("rwkv", {"whole_prompts", "equal_lengths", "uncached"}),
        ("jamba", {"whole_prompts"}),
        ("recurrent_gemma", {"whole_prompts", "equal_lengths", "uncached"}),
        ("openai-gpt", {"whole_prompts", "uncached"}),
        ("roberta", set()),
        ("opt", set()),
        ("qwen3_next", set()),
    ],
)
def test_the_freest_reading_that_is_right(name: str, limits: set[str]) -> None:
    reading = reading_of(unusual_model(name))
    assert {field for field, value in vars(reading).items() if value} == limits
    assert bool(reading.limits) == bool(limits)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "mistral-window", "gemma2", "neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_common_models_are_read_freely_in_every_precision(name: str, dtype: torch.dtype) -> None:
    assert reading_of(random_model(name).to(dtype)) == Reading()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["mamba", "openai-gpt", "jamba"])
def test_limits_are_found_in_half_precision_too(name: str, dtype: torch.dtype) -> None:
    assert reading_of(unusual_model(name).to(dtype)).limits


def test_a_wrong_position_is_seen() -> None:
    """Positions that count from 0 where the model counts from its padding token on."""
    model = unusual_model("roberta")
    stack_of = LoadedModel("a model", model, byte_tokenizer(), model.device)
    stack_of.decoder.padding_id = None
    with pytest.raises(ConfigError, match="RobertaForCausalLM cannot be collected: however it is read"):
        choose_reading(stack_of)


def test_positions_that_count_from_the_padding_token_leave_a_shorter_context(tmp_path: Path) -> None:
    """Up to the last position, and with a padding token in the text, which is not counted."""
    model = unusual_model("roberta", max_position_embeddings=30)
    model.generation_config.eos_token_id = [299]
    folder = save(model, tmp_path / "model")
    lake, run = collect(folder, tmp_path / "lake", prompt=PROMPTS[1:], max_new_tokens=60)
    check_run(lake, run.run_id, PlainCausal(folder).read)
    longest = max(len(tokens) for tokens in sequences_of(lake, run.run_id).values())
    assert longest == 27
    with pytest.raises(ConfigError, match="the model takes 26"):
        collect(folder, tmp_path / "other")


def test_a_model_that_sees_what_follows_is_refused() -> None:
    with pytest.raises(ConfigError, match="depend on the tokens behind it.*is_decoder"):
        reading_of(unusual_model("bert", is_decoder=False))


def test_logits_that_come_from_elsewhere_are_refused() -> None:
    model = random_model("llama")
    head = model.lm_head.forward
    model.lm_head.forward = lambda states: head(torch.ones_like(states))
    other = LoadedModel("a model", model, byte_tokenizer(), model.device)
    assert choose_reading(other) == Reading()  # both are the same: the logits are what they are
    other.unembed = lambda states: head(torch.zeros_like(states))  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="its logits cannot be computed from the states of LlamaModel"):
        choose_reading(other)


def test_attention_scaled_by_column_keeps_long_sequences_unpadded() -> None:
    reading = Reading(column_scale=40)
    assert reading.group(0, 10, 8) == reading.group(0, 20, 8)
    assert reading.group(0, 35, 8) != reading.group(0, 36, 8)


def test_the_run_says_how_it_was_read_and_resumes_so(tmp_path: Path) -> None:
    folder = save_unusual("openai-gpt", tmp_path / "model")
    lake, run = collect(folder, tmp_path / "lake", max_new_tokens=2)
    about = lake.run_json(run.run_id)
    assert any("read again at every step" in notice for notice in about["notices"])
    assert about["notices"] == list(run.notices)
    assert Plan.from_json(about["plan"]).reading == Reading(whole_prompts=True, uncached=True)
    assert Plan.from_json({k: v for k, v in about["plan"].items() if k != "reading"}).reading == Reading(separate=True)
    with pytest.raises(ConfigError, match="read otherwise"):
        Collection(
            CollectConfig(model=str(folder), prompt=PROMPTS),
            plan=replace(Plan.from_json(about["plan"]), reading=Reading()),
        )


def test_attention_is_observed_when_everything_is_read_again(tmp_path: Path) -> None:
    """Heads of generated tokens: the last query of a pass over the whole sequence."""
    folder = save(random_model("llama"), tmp_path / "model")
    again = Reading(whole_prompts=True, uncached=True)
    lake, run = collect(folder, tmp_path / "lake", reading=again, keep=("tokens", "heads"))
    heads = lake.scan("head_summaries", run=run.run_id).collect().sort("position", "layer", "head")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    for number, tokens in sequences_of(lake, run.run_id).items():
        ids = torch.from_numpy(tokens["token_id"].to_numpy().astype("int64"))[None]
        with torch.no_grad():
            maps = torch.stack(model(ids, output_attentions=True).attentions)[:, 0].double()
        entropy = -(maps * maps.clamp_min(1e-300).log2()).sum(-1).permute(2, 0, 1).flatten()
        own = heads.filter(heads["sequence_id"] == number)
        torch.testing.assert_close(
            torch.tensor(own["entropy_bits"].to_list(), dtype=torch.float64), entropy, rtol=1e-4, atol=1e-5
        )
        assert (own["n_keys"] == own["position"] + 1).all()
