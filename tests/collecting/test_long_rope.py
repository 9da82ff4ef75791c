"""Rotary embeddings that depend on the length of a sequence: prompts on both sides of the switch, and across it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from plain_sequences import Plain, PlainCausal, check_run, collect, sequences_of
from random_models import CONTEXT, D_HEAD, save
from transformers import PreTrainedModel
from unusual_models import unusual_model

from tracelake.collect.decoding.reading.reading import Reading

SWITCH = 32
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "original_max_position_embeddings": SWITCH,
    "short_factor": [1.0] * (D_HEAD // 2),
    "long_factor": [1.0, 1.5, 3.0, 6.0, 12.0, 20.0],
}
SHARED = {"rope_theta": 10_000.0, "factor": 3.0}
KINDS = {
    "default": {"rope_type": "default", "rope_theta": 10_000.0},
    "linear": {"rope_type": "linear", **SHARED},
    "dynamic": {"rope_type": "dynamic", **SHARED},
    "yarn": {"rope_type": "yarn", "original_max_position_embeddings": SWITCH, **SHARED},
    "llama3": {
        "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": SWITCH, **SHARED,
    },
    "longrope": LONG,
}  # fmt: skip
MODELS = {
    "phi3": {"rope_parameters": LONG, "original_max_position_embeddings": SWITCH, "sliding_window": None},
    "phimoe": {
        "rope_parameters": {**LONG, "short_mscale": 1.1, "long_mscale": 1.4}, "num_local_experts": 2,
        "num_experts_per_tok": 1, "head_dim": D_HEAD, "original_max_position_embeddings": SWITCH,
        "sliding_window": None,
    },
}  # fmt: skip
TEXT = "Tom has three apples and gives two of them to Mia. How many apples are left? Count them: one, two, three"
PROMPTS = (TEXT, "a", TEXT[:70], TEXT[:75], "one, two,", TEXT[:20])


def ending_at_299(model: PreTrainedModel, folder: Path) -> Path:
    """Save a model that hardly ever ends a sequence."""
    model.generation_config.eos_token_id = [299]
    return save(model, folder)


def split_at(plain: PlainCausal, switch: int) -> Callable[[np.ndarray, int], Plain]:
    """What `generate` computes: short factors while the sequence is short, then all anew with the long ones."""

    def read(ids: np.ndarray, n_prompt: int) -> Plain:
        logits, states = plain.read(ids)
        if n_prompt > switch or len(ids) <= switch:
            return logits, states
        early, before = plain.read(ids[:switch])
        logits[:switch] = early
        for key, values in before.items():
            states[key][:switch] = values
        return logits, states

    return read


def lengths_of(lake: object, run: str) -> list[tuple[int, int]]:
    """Tokens of the prompt and of the whole, of each sequence."""
    return [(int(tokens["is_prompt"].sum()), len(tokens)) for tokens in sequences_of(lake, run).values()]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["phi3", pytest.param("phimoe", marks=pytest.mark.slow)])
def test_sequences_on_both_sides_and_across_the_switch(name: str, tmp_path: Path) -> None:
    folder = ending_at_299(unusual_model(name, **MODELS[name]), tmp_path / "model")
    plain = PlainCausal(folder)
    for settings in ({}, {"samples": 2, "temperature": 1.0, "batch_size": 4}):
        lake, run = collect(folder, tmp_path / str(len(settings)), prompt=PROMPTS, max_new_tokens=14, **settings)
        lengths = lengths_of(lake, run.run_id)
        assert any(n > SWITCH for n, _ in lengths) and any(n <= SWITCH < whole for n, whole in lengths)
        assert any(whole <= SWITCH for _, whole in lengths)
        check_run(lake, run.run_id, split_at(plain, SWITCH), greedy=not settings)


def test_greedy_tokens_across_the_switch_are_those_of_generate(tmp_path: Path) -> None:
    folder = ending_at_299(unusual_model("phi3", **MODELS["phi3"]), tmp_path / "model")
    plain = PlainCausal(folder)
    lake, run = collect(folder, tmp_path / "lake", prompt=PROMPTS, max_new_tokens=20)
    for tokens in sequences_of(lake, run.run_id).values():
        ids, n = tokens["token_id"].to_numpy().astype(np.int64), int(tokens["is_prompt"].sum())
        assert ids[n:].tolist() == plain.generate(ids[:n], len(ids) - n)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in ("dynamic", "longrope") else pytest.mark.slow) for kind in KINDS]
)
def test_every_kind_of_scaling_is_exact(kind: str, tmp_path: Path) -> None:
    """Up to the model's context, where all sequences end: dynamic scaling would begin there."""
    model = unusual_model("llama", rope_parameters=KINDS[kind])
    folder = ending_at_299(model, tmp_path / "model")
    plain = PlainCausal(folder)
    lake, run = collect(folder, tmp_path / "lake", prompt=PROMPTS, max_new_tokens=CONTEXT)
    lengths = lengths_of(lake, run.run_id)
    assert max(whole for _, whole in lengths) == CONTEXT
    reasons = lake.scan("sequences", run=run.run_id).collect()["finish_reason"].to_list()
    assert "context" in reasons
    read = split_at(plain, SWITCH) if kind == "longrope" else plain.read
    check_run(lake, run.run_id, read)


def test_only_sequences_that_share_factors_share_a_batch() -> None:
    reading = Reading(switch=SWITCH)
    short, crossing, long = reading.group(0, 20, 12), reading.group(0, 21, 12), reading.group(0, 33, 12)
    assert len({short, crossing, long}) == 3
    assert short == reading.group(0, 3, 12) and long == reading.group(0, 60, 12)
    assert crossing != reading.group(0, 22, 12) and crossing == reading.group(0, 21, 13)
