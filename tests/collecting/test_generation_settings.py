"""Settings of a model's generation_config: said at the start, and applied exactly as `generate` applies them.

The reference is `generate(do_sample=False)` on each prompt alone; ours decodes them in one padded batch.
"""

import json
from pathlib import Path

import pytest
import torch
from random_models import ENCODER_DECODERS, PROMPTS, random_encoder_decoder, random_model, save
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding.sampling.generation_settings import (
    ELSEWHERE,
    OFF,
    OTHER_METHODS,
    SAMPLING,
    GenerationSettings,
)
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake

N_NEW = 14
SETTINGS: dict[str, dict] = {
    "repetition_penalty": {"repetition_penalty": 2.5},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[i] for i in range(40, 300)] + [[8, 9]]},
    "min_length": {"min_length": 12},
    "min_new_tokens": {"min_new_tokens": 9},
    "suppress_tokens": {"suppress_tokens": list(range(0, 300, 2))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(1, 300, 2))},
    "sequence_bias": {"sequence_bias": [[[5], 60.0], [[5, 11], 90.0]]},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": [2, 1.9]},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 6.0},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1, "repetition_penalty": 0.3},
    "together": {
        "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 4, "suppress_tokens": [17, 30],
        "bad_words_ids": [[50], [7, 8]], "begin_suppress_tokens": [60, 61],
    },
}  # fmt: skip
"""Each strong enough to change a sequence of the random models."""


def test_every_setting_of_the_library_is_known() -> None:
    names = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    groups = [set(OFF), set(SAMPLING), set(OTHER_METHODS), set(ELSEWHERE)]
    assert names == set().union(*groups), "say of every setting what becomes of it"
    assert sum(map(len, groups)) == len(names), "in one group each"
    assert set(OFF) - {"stop_strings"} <= set(SETTINGS), "and every one that can be applied is tried here"


def test_settings_that_are_off_are_none() -> None:
    off = {name: values[0] for name, values in {**OFF, **OTHER_METHODS}.items() if values}
    settings = GenerationSettings.of(GenerationConfig(**off, bad_words_ids=None, suppress_tokens=[], top_p=0.5))
    assert settings == GenerationSettings() == GenerationSettings.of(None)
    assert settings.notices("m", applied=False) == [] == settings.notices("m", applied=True)


def saved(architecture: str, folder: Path, settings: dict) -> Path:
    """A random model with these settings in its generation_config.json."""
    make = random_encoder_decoder if architecture in ENCODER_DECODERS else random_model
    save(make(architecture), folder)
    file = folder / "generation_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **settings}), encoding="utf-8")
    return folder


def generated(folder: Path, *, seq2seq: bool, **options: object) -> list[list[int]]:
    """What `generate` writes behind each prompt alone."""
    auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    if seq2seq:
        options |= {"use_cache": False}  # the library's own cache fails where the stacks differ in depth
    model, tokenizer = auto.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=N_NEW, pad_token_id=2,
                **options,
            )  # fmt: skip
        found.append(output[0, 1 if seq2seq else ids.shape[1] :].tolist())
    return found


def collected(folder: Path, path: Path, **settings: object) -> tuple[Lake, list[list[int]]]:
    lake = Lake.create(path)
    defaults = {"model": str(folder), "prompt": PROMPTS, "device": "cpu", "keep": ("tokens",), "batch_size": 5}
    Collection(CollectConfig(**{**defaults, "max_new_tokens": N_NEW, **settings})).start(lake)
    rows = lake.sql(
        "select list(token_id order by step) as ids from token_steps where not is_prompt group by sequence_id "
        "order by sequence_id"
    )
    return lake, rows["ids"].to_list()


@pytest.fixture(scope="module")
def without_settings(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """What the Llama writes that every test here gives its settings."""
    folder = saved("llama", tmp_path_factory.mktemp("model"), {})
    return collected(folder, tmp_path_factory.mktemp("lake"))[1]


QUICK = ("together", "min_length", "bad_words_ids", "encoder_repetition_penalty")
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS]


@pytest.mark.parametrize("name", ALL)
def test_greedy_tokens_are_those_of_generate(name: str, tmp_path: Path, without_settings: list[list[int]]) -> None:
    folder = saved("llama", tmp_path / "model", SETTINGS[name])
    wanted = generated(folder, seq2seq=False)
    lake, ours = collected(folder, tmp_path / "applied", generation_config=True)
    assert ours == wanted
    assert without_settings != wanted, "the setting does nothing here"
    check_record(lake, SETTINGS[name], applied=True)


def check_record(lake: Lake, settings: dict, *, applied: bool) -> None:
    """run.json says what became of the settings, and so did the one notice."""
    about = lake.run_json(lake.resolve_run("latest"))
    assert about["generation_config"] == {
        "applied": settings if applied else {},
        "ignored": {} if applied else settings,
    }
    (notice,) = about["notices"]
    assert ("is applied" in notice) == applied and all(name in notice for name in settings)
    assert ("--generation-config" in notice) != applied


def test_settings_that_nobody_asked_for_are_said(tmp_path: Path, without_settings: list[list[int]]) -> None:
    folder = saved("llama", tmp_path / "model", SETTINGS["together"])
    lake, ours = collected(folder, tmp_path / "lake")
    assert ours == without_settings
    check_record(lake, SETTINGS["together"], applied=False)


PAIRS = [("together", "t5"), ("encoder_no_repeat_ngram_size", "bart")]


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_encoder_decoders_too(name: str, architecture: str, tmp_path: Path) -> None:
    folder = saved(architecture, tmp_path / "model", SETTINGS[name])
    assert collected(folder, tmp_path / "lake", generation_config=True)[1] == generated(folder, seq2seq=True)


def test_a_penalty_that_was_given_takes_the_place_of_the_models(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model", {"repetition_penalty": 2.5, "min_new_tokens": 9})
    wanted = generated(folder, seq2seq=False, repetition_penalty=1.2)
    options = {"generation_config": True, "repetition_penalty": 1.2}
    assert collected(folder, tmp_path / "lake", **options)[1] == wanted


def test_stop_strings_of_the_model(tmp_path: Path) -> None:
    free = saved("llama", tmp_path / "free", {})
    tokenizer = AutoTokenizer.from_pretrained(free)
    pieces = [tokenizer.decode([i]) for ids in generated(free, seq2seq=False) for i in ids[1:-1]]
    stop = next(piece for piece in pieces if piece.isascii() and piece.isalpha() and len(piece) > 1)
    folder = saved("llama", tmp_path / "model", {"stop_strings": [stop]})
    wanted = generated(folder, seq2seq=False, tokenizer=tokenizer)
    lake, ours = collected(folder, tmp_path / "lake", generation_config=True)
    assert ours == wanted != generated(free, seq2seq=False)
    assert "stop_string" in lake.sql("select finish_reason from sequences")["finish_reason"].to_list()


def test_draws_come_from_what_the_settings_leave(tmp_path: Path) -> None:
    banned = list(range(0, 300, 2))
    folder = saved("llama", tmp_path / "model", {"suppress_tokens": banned, "min_new_tokens": 5})
    options = {"generation_config": True, "temperature": 1.5, "samples": 2, "top_k": 50}
    lake, ours = collected(folder, tmp_path / "lake", **options)
    assert all(token_id % 2 for ids in ours for token_id in ids) and all(len(ids) >= 5 for ids in ours)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    ids = torch.cat((prompt, torch.tensor([ours[0]])), 1)
    with torch.no_grad():
        scores = model(ids).logits[0, prompt.shape[1] - 1 : -1].double() / 1.5
    scores[:, banned] = -torch.inf
    ends = model.generation_config.eos_token_id
    scores[:5, ends] = -torch.inf
    scores[scores < scores.topk(50).values[:, -1:]] = -torch.inf
    wanted = scores.log_softmax(-1).gather(-1, torch.tensor(ours[0]).unsqueeze(-1))[:, 0]
    stored = lake.sql(
        "select sampling_logprob p from token_steps where sequence_id = 0 and not is_prompt order by step"
    )["p"]
    assert stored.to_list() == pytest.approx(wanted.tolist(), rel=1e-4, abs=1e-5)


def test_what_cannot_be_applied_is_said(tmp_path: Path) -> None:
    asked = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "num_beams": 4}
    folder = saved("llama", tmp_path / "model", asked)
    lake, _ = collected(folder, tmp_path / "lake", generation_config=True)
    about = lake.run_json(lake.resolve_run("latest"))
    assert about["generation_config"]["applied"] == {}
    assert about["generation_config"]["ignored"].items() >= asked.items()
    sampling, beams = about["notices"]
    assert "temperature 0.6" in sampling and "--temperature" in sampling and "num_beams 4" in beams
    lake, _ = collected(folder, tmp_path / "read", max_new_tokens=0)
    assert lake.run_json(lake.resolve_run("latest"))["notices"] == [], "nothing is chosen where prompts are only read"
