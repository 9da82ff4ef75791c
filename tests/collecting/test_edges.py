"""Kept attention edges of the prompt are the heaviest of the whole attention map, which is held only in this test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from random_models import PROMPTS
from transformers import AutoModelForCausalLM, AutoTokenizer

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake

THRESHOLD, CAP = 0.05, 12


def whole_maps(folder: Path, prompt: str) -> np.ndarray:
    """Attention weights `[layer, head, query, key]` of one plain, unbatched, eager pass."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        output = model(**tokenizer(prompt, return_tensors="pt"), output_attentions=True)
    return torch.stack([attention[0] for attention in output.attentions]).numpy()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral-window", "gemma2"])
def test_edges_are_the_heaviest_weights(architecture: str, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_folder(architecture)
    config = CollectConfig(
        model=str(folder), prompt=PROMPTS, keep=("edges:prompt",), max_new_tokens=2, chat="off", device="cpu",
        edge_threshold=THRESHOLD, edge_cap=CAP,
    )  # fmt: skip
    collection = Collection(config)
    collection.plan = replace(collection.plan, chunk=7)
    collection.observed.decoder.observers["self"].block_bytes = 600  # type: ignore[union-attr]
    lake = Lake.create(tmp_path)
    collection.start(lake)
    edges = lake.scan("attention_edges").collect()
    assert edges["weight"].min() > THRESHOLD
    for sequence_id, prompt in enumerate(PROMPTS):
        maps = whole_maps(folder, prompt)
        mine = edges.filter(pl.col("sequence_id") == sequence_id)
        layer, head, query, key = (mine[name].to_numpy() for name in ("layer", "head", "position", "key"))
        np.testing.assert_allclose(mine["weight"].to_numpy(), maps[layer, head, query, key], rtol=1e-3, atol=1e-5)
        counts = np.zeros(maps.shape[:2], dtype=int)
        np.add.at(counts, (layer, head), 1)
        over = (maps > THRESHOLD).sum((2, 3))
        near = (np.abs(maps - THRESHOLD) < 1e-5).sum((2, 3))
        assert (np.abs(counts - np.minimum(over, CAP)) <= near).all()
        for at in zip(*np.nonzero(over > CAP), strict=True):
            lightest = np.sort(maps[at], axis=None)[-CAP]
            kept = mine.filter((pl.col("layer") == at[0]) & (pl.col("head") == at[1]))["weight"].to_numpy()
            assert kept.min() >= lightest - 1e-5
    assert edges.height > 100
