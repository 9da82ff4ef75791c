"""Vectors for autoencoders: a harvest over the bare pass, how fast they come back, how long training waits."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measurement import Result, interleave, ratio_range, speed_ratio
from tracelake.analysis.sae.training.options import TrainOptions
from tracelake.analysis.sae.training.trainer import start_training
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.lake.shuffling.sampler import Sampler

CONTEXT, BATCH = 128, 32
WIDTH, ROWS, PER_SEQUENCE = 768, 131_072, 1_024


def measure_reading(result: Result, folder: Path, options: Any) -> None:
    """Harvest, loader, waiting."""
    repeats = options.repeats or (1 if options.quick else 3)
    harvest(result, folder, 16_384 if options.quick else 49_152, repeats)
    loader(result, folder / "wide", 8_192 if options.quick else ROWS, repeats)
    waiting(result, folder / "harvest", 4_000 if options.quick else 120_000)


def harvest(result: Result, folder: Path, n_tokens: int, repeats: int) -> None:
    """The corpus with all layers' resid_post committed, over the same contexts through the bare blocks."""
    lake = Lake.create(folder / "harvest")
    config = CollectConfig(
        corpus="tinymath:train", tokens=n_tokens, pack=CONTEXT, keep=["activations:resid_post"],
        store_dtype="float16", batch_size=BATCH, validation=0.05, tag="harvest",
    )  # fmt: skip
    began = time.process_time()
    loaded = load_model("tinymath")
    loading = time.process_time() - began
    body = loaded.model.base_model
    ids = torch.randint(0, loaded.d_vocab, (BATCH, CONTEXT), generator=torch.Generator().manual_seed(0))
    collected: list[int] = []

    def collect() -> float:
        collection = Collection(config)
        began = time.process_time()
        done = collection.start(lake, assume_yes=True)
        seconds = time.process_time() - began - loading
        collected.append(lake.runs()[-1]["n_tokens"] or 0)
        if len(collected) <= repeats:
            lake.remove(done.run_id, dry_run=False, now=True)
        return seconds

    def bare() -> float:
        began = time.process_time()
        with torch.inference_mode():
            for _ in range(n_tokens // (BATCH * CONTEXT)):
                body(ids)
        return time.process_time() - began

    samples = interleave({"harvest": collect, "bare": bare}, repeats)
    work = collected[-1] / (n_tokens // (BATCH * CONTEXT) * BATCH * CONTEXT)
    table = result.table(f"Harvest of all {loaded.n_layers} layers, contexts of {CONTEXT}", "case", "tokens per second",
                         "seconds")  # fmt: skip
    for name, sample in samples.items():
        table.add(name, round(n_tokens / sample.median), sample.spread)
    ratio = speed_ratio(samples["harvest"], samples["bare"], work=work)
    result.promise("Harvest of all layers over the bare forward pass", 0.7, ratio)
    rounds = ratio_range(samples["harvest"], samples["bare"], work=work)
    result.notes.append(f"The harvest without loading the model ({loading:.2f} s), by round: {rounds}.")


def loader(result: Result, path: Path, n_rows: int, repeats: int) -> None:
    """Shuffled batches over `lake.vectors` in the order of the files, and over a memory map of the same bytes."""
    lake = _wide(path, n_rows)
    plain = path / "plain.npy"
    np.save(plain, np.random.default_rng(0).integers(0, 2**16, (n_rows, WIDTH), dtype=np.uint16))
    sampler = Sampler(lake, ["wide"], 0, "resid_post", 4096, seed=0, exclude="none")

    def shuffled() -> float:
        began = time.perf_counter()
        n = sum(len(batch) for batch in sampler.batches(0))
        assert n == sampler.n_batches * 4096 or n == n_rows
        return time.perf_counter() - began

    def in_order() -> float:
        began = time.perf_counter()
        assert sum(len(v) for _, v in lake.vectors(0, "resid_post", "wide", raw=True)) == n_rows
        return time.perf_counter() - began

    def mapped() -> float:
        began = time.perf_counter()
        rows = np.load(plain, mmap_mode="r")
        for start in range(0, n_rows, 4096):
            np.array(rows[start : start + 4096])
        return time.perf_counter() - began

    samples = interleave({"shuffled": shuffled, "lake.vectors": in_order, "memory map": mapped}, repeats)
    table = result.table(f"Reading {n_rows:,} x {WIDTH} in float16", "case", "rows per second", "seconds")
    for name, sample in samples.items():
        table.add(name, round(n_rows / sample.median), sample.spread)
    ratio = speed_ratio(samples["shuffled"], samples["lake.vectors"])
    result.promise("Shuffled loader over lake.vectors unshuffled", 0.6, ratio)
    mapped_ratio = speed_ratio(samples["shuffled"], samples["memory map"])
    result.notes.append(f"Shuffled loader over a sequential memory map from the page cache: {mapped_ratio:.2f}.")


def _wide(path: Path, n_rows: int) -> Lake:
    lake = Lake.create(path)
    rng = np.random.default_rng(0)
    with lake.start_run("wide", {"kind": "read", "model": {"name": "m", "n_layers": 1}}) as run:
        for index in range(4):
            first, end = (n_rows // PER_SEQUENCE * place // 4 for place in (index, index + 1))
            with run.segment(index, (first, end)) as segment:
                ids = np.arange(first, end)
                segment.append("sequences", {"sequence_id": ids, "prompt": "x"})
                position = np.tile(np.arange(PER_SEQUENCE, dtype=np.int32), len(ids))
                keys = {"sequence_id": np.repeat(ids, PER_SEQUENCE), "position": position, "stack": "decoder"}
                vectors = rng.standard_normal((len(position), WIDTH), dtype=np.float32).astype(np.float16)
                segment.append_vectors(
                    "activations", layer=0, site="resid_post", columns=keys, vectors=vectors, dtype="float16"
                )
        run.finish()
    return lake


def waiting(result: Result, path: Path, n_tokens: int) -> None:
    """The share of a training's time that it waits for vectors."""
    lake = Lake.open(path)
    options = TrainOptions(layers=(3,), widths=("1024",), ks=(16,), tokens=n_tokens, batch_size=2048, commits=2)
    trained = start_training(lake, ["latest"], options)
    rows = lake.scan("sae_training", trained.run_id).collect()
    share = float((rows["wait_share"] / rows["tokens_per_s"]).sum() / (1 / rows["tokens_per_s"]).sum())
    result.promise("Waiting for vectors in a training, 128 to 1024", 0.05, share, unit="of its time", at_most=True)
