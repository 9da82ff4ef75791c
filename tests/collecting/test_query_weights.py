"""Attention weights of single tokens, kept while they pass by, against the maps of one plain, eager, unbatched pass.

Edges of generated tokens are the heaviest of their query; whole rows (`--keep pattern@LAYER.HEAD`) are the map's.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from plain_encoder_decoder import PlainEncoderDecoder
from plain_forward import PlainModel
from random_models import N_HEADS, N_LAYERS, PROMPTS
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.configuration.keep import Keep, PatternKeep
from tracelake.collect.running.collector import Collection
from tracelake.collect.running.stack_rows import attention_lists
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, UsageError

THRESHOLD, CAP, CAP_GENERATED = 0.02, 12, 3
KEY = ["sequence_id", "position"]
HEADS = {0: (2,), 1: (0, 1, 2, 3), 2: (1,)}
KEEP = ("tokens", "edges", "pattern@0.2,1.*,-1.1")


def collected(folder: Path, path: Path, keep: tuple[str, ...] = KEEP, **settings: object) -> Lake:
    config = CollectConfig(
        model=str(folder), prompt=PROMPTS, keep=keep, chat="off", device="cpu", edge_threshold=THRESHOLD,
        edge_cap=CAP, edge_cap_generated=CAP_GENERATED, **{"max_new_tokens": 12, "batch_size": 5, **settings},
    )  # fmt: skip
    collection = Collection(config)
    collection.plan = replace(collection.plan, chunk=7)
    for stack in collection.observed.stacks:  # type: ignore[union-attr]
        for observer in stack.observers.values():
            observer.block_bytes = 600
    lake = Lake.create(path)
    collection.start(lake)
    return lake


def maps_of(lake: Lake, folder: Path, architecture: str) -> dict[int, tuple[int, np.ndarray]]:
    """Per sequence: tokens of the prompt, and the weights `[query layer head key]` of a plain pass."""
    plain = PlainModel(AutoModelForCausalLM.from_pretrained(folder).eval(), architecture)
    tokens = lake.scan("token_steps").sort(KEY).collect()
    sizes = dict(lake.scan("sequences").select("sequence_id", "n_prompt_tokens").collect().iter_rows())
    return {
        sequence: (sizes[sequence], plain.read(part["token_id"].to_numpy().astype(np.int64), sizes[sequence]).attention)
        for (sequence,), part in tokens.group_by("sequence_id", maintain_order=True)
    }


def check_edges(edges: pl.DataFrame, n_prompt: int, maps: np.ndarray) -> int:
    """The edges of generated tokens are the heaviest of each query and head, as many as are over the threshold."""
    mine = edges.filter(pl.col("position") >= n_prompt)
    query, layer, head, key = (mine[name].to_numpy() for name in ("position", "layer", "head", "key"))
    np.testing.assert_allclose(mine["weight"].to_numpy(), maps[query, layer, head, key], rtol=1e-3, atol=1e-5)
    counts = np.zeros(maps.shape[:3], dtype=int)
    np.add.at(counts, (query, layer, head), 1)
    over, near = (maps > THRESHOLD).sum(-1), (np.abs(maps - THRESHOLD) < 1e-5).sum(-1)
    assert (np.abs(counts - np.minimum(over, CAP_GENERATED))[n_prompt:] <= near[n_prompt:]).all()
    for at in zip(*np.nonzero(over > CAP_GENERATED), strict=True):
        if at[0] >= n_prompt:
            kept = mine.filter(position=int(at[0]), layer=int(at[1]), head=int(at[2]))["weight"]
            assert kept.min() >= np.sort(maps[at])[-CAP_GENERATED] - 1e-5  # type: ignore[operator]
    return mine.height


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral-window", "gemma2"])
def test_weights_of_single_tokens_are_those_of_a_plain_pass(
    architecture: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = model_folder(architecture)
    lake = collected(folder, tmp_path / "lake", samples=2, temperature=1.0, batch_size=4)
    maps = maps_of(lake, folder, architecture)
    edges, patterns = (lake.scan(name).collect() for name in ("attention_edges", "attention_patterns"))
    assert len(maps) == 2 * len(PROMPTS)
    n_edges = sum(check_edges(edges.filter(sequence_id=s), n, weights) for s, (n, weights) in maps.items())
    assert n_edges > 1000
    n_rows = sum(len(weights) * sum(map(len, HEADS.values())) for _, weights in maps.values())
    assert patterns.height == n_rows and patterns.select(*KEY, "layer", "head").is_unique().all()
    assert {(la, h) for la, h in patterns.select("layer", "head").unique().rows()} == {
        (layer, head) for layer, heads in HEADS.items() for head in heads
    }
    for row in patterns.iter_rows(named=True):
        whole = maps[row["sequence_id"]][1][row["position"], row["layer"], row["head"]][: row["position"] + 1]
        found = np.zeros_like(whole)
        found[row["first_key"] :] = row["weights"]
        np.testing.assert_allclose(found, whole, rtol=1e-3, atol=1e-5)


def test_scopes_of_edges_and_rows(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_folder("llama")
    keep = ("edges:generated", "pattern@*.0,1.1:prompt", "pattern@2.3:generated")
    lake = collected(folder, tmp_path / "some", keep)
    whole = collected(folder, tmp_path / "whole", ("edges", "pattern@*.*"))
    n_prompt = lake.scan("sequences").select("sequence_id", "n_prompt_tokens")
    is_generated = pl.col("position") >= pl.col("n_prompt_tokens")
    for table, expected in (
        ("attention_edges", is_generated),
        (
            "attention_patterns",
            ((pl.col("head") == 0) & ~is_generated)
            | ((pl.col("layer") == 2) & (pl.col("head") == 3) & is_generated)
            | ((pl.col("layer") == 1) & (pl.col("head") == 1) & ~is_generated),
        ),
    ):
        every = whole.scan(table).join(n_prompt, on="sequence_id").filter(expected).drop("run_id", "n_prompt_tokens")
        order = [*KEY, "layer", "head", *(["key"] if table == "attention_edges" else [])]
        some = lake.scan(table).drop("run_id").sort(order).collect()
        assert some.equals(every.sort(order).collect()) and some.height > 50, table
    prompt_only = collected(folder, tmp_path / "prompt", ("edges:prompt",)).scan("attention_edges").collect()
    both = whole.scan("attention_edges").join(n_prompt, on="sequence_id").filter(~is_generated).collect()
    assert prompt_only.height == both.height


def test_without_the_prompt_only_generated_tokens_are_kept(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_folder("llama")
    lake = collected(folder, tmp_path / "lake", observe_prompt=False)
    maps = maps_of(lake, folder, "llama")
    edges = lake.scan("attention_edges").collect()
    assert sum(check_edges(edges.filter(sequence_id=s), n, weights) for s, (n, weights) in maps.items()) == edges.height
    first = lake.scan("attention_patterns").group_by("sequence_id").agg(pl.col("position").min()).collect()
    # The last token of the prompt predicts the first of the completion, and is observed.
    assert dict(first.iter_rows()) == {s: n - 1 for s, (n, _) in maps.items()}
    with pytest.raises(UsageError, match="of the prompt"):
        from tracelake.collect.configuration.config import resolve_config

        resolve_config({"observe_prompt": False, "keep": ("edges:prompt",)})


def test_encoder_and_decoder(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_folder("t5")
    lake = collected(folder, tmp_path / "lake", ("tokens", "edges", "pattern@1.*"))
    tokens = lake.scan("token_steps").sort(KEY).collect()
    plain = PlainEncoderDecoder(AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), "t5")
    edges, patterns = (lake.scan(name).collect() for name in ("attention_edges", "attention_patterns"))
    seen = 0
    for (sequence,), part in tokens.group_by("sequence_id", maintain_order=True):
        n_encoded = int((part["stack"] == "encoder").sum())
        reading = plain.read(part["token_id"].to_numpy().astype(np.int64), n_encoded)
        for row in patterns.filter(sequence_id=sequence).iter_rows(named=True):
            stack = reading.stacks[row["stack"]]
            maps = stack.attention[row["kind"]][row["position"] - stack.first, row["layer"], row["head"]]
            found = np.zeros_like(maps)
            found[row["first_key"] :][: len(row["weights"])] = row["weights"]
            np.testing.assert_allclose(found, maps, rtol=1e-3, atol=1e-5)
            seen += 1
        behind = edges.filter(pl.col("sequence_id") == sequence, pl.col("position") > n_encoded)
        assert set(behind["kind"]) <= {"self", "cross"} and set(behind["stack"]) <= {"decoder"}
        for row in behind.iter_rows(named=True):
            maps = reading.stacks["decoder"].attention[row["kind"]][row["position"] - n_encoded, row["layer"]]
            assert row["weight"] == pytest.approx(maps[row["head"], row["key"]], rel=1e-3, abs=1e-5)
            seen += 1
    assert seen > 1000 and {"self", "cross"} == set(patterns["kind"])


def test_heads_are_read_and_what_is_not_there_is_named(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    keep = Keep.parse(["tokens,pattern@4.7,5.*,-1.0:prompt,activations:z@1,2"])
    assert keep.patterns == (PatternKeep("4.7,5.*,-1.0", "prompt"),) and keep.activations[0].layers == "1,2"
    assert PatternKeep("0-1.3,*.1", None).resolve(N_LAYERS, N_HEADS) == {0: {1, 3}, 1: {1, 3}, 2: {1}}
    for wrong in ("pattern@4", "pattern@x.1", "pattern@1.2:last", "pattern", "edges:last"):
        with pytest.raises(UsageError):
            Keep.parse([wrong])
    for wrong in ("pattern@3.0", "pattern@0.4"):
        with pytest.raises(ConfigError, match="There is no"):
            collected(model_folder("llama"), tmp_path / "lake", (wrong,))


def test_rows_of_weights_as_lists() -> None:
    """Padding, keys behind the query and leading zeros are left out; a row with NaN is null."""
    weights = np.array([[9, 0, 0.25, 0.75], [0.5, 0.5, 9, 9], [0.5, np.nan, 0, 0], [0, 0, 0, 1]], dtype=np.float32)
    first, ends = np.array([-1, 0, 0, 4]), np.array([3, 2, 2, 8])
    first_key, lists = attention_lists(weights, first, ends)
    assert first_key.tolist() == [1, 0, 0, 7]
    assert lists.equals(pa.array([[0.25, 0.75], [0.5, 0.5], None, [1.0]], pa.list_(pa.float32())))
