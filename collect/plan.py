"""What will run, decided before anything runs: segments, batches, chunk length, and an estimate of tokens and bytes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .config import CollectConfig
from .keep import Keep
from .model import LoadedModel

SEGMENT_BYTES = 256 * 2**20
SEGMENT_BATCHES = 32
LEAST_SEGMENTS = 8
CPU_BUDGET, GPU_BUDGET = 64 * 2**20, 512 * 2**20
LOGIT_BYTES_CPU, LOGIT_BYTES_GPU = 4 * 2**20, 256 * 2**20
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}

# Bytes per row after compression, measured on collected runs (benchmarks/sizes.py); they depend little on the model.
ROW_BYTES = {"token_key": 9.0, "tokens": 34.0, "topk": 6.4, "layers": 41.0, "heads": 8.9, "sequence": 260.0}


@dataclass(frozen=True)
class Plan:
    """The part of run.json that resuming obeys: it never changes once a run has started."""

    segments: list[list[int]]
    n_items: int
    n_sequences: int
    n_prompt_tokens: int
    batch_size: int
    chunk: int
    logit_rows: int
    block_bytes: int
    bytes_per_token: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain values for run.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Plan":
        """The plan of a run that was started earlier."""
        return cls(**values)


@dataclass(frozen=True)
class Estimate:
    """What a run will cost: tokens, bytes per table, files. `exact` says whether the lengths are known beforehand."""

    n_sequences: int
    n_tokens: int
    table_bytes: dict[str, int]
    n_files: int
    exact: bool

    @property
    def n_bytes(self) -> int:
        """Bytes of all tables."""
        return sum(self.table_bytes.values())


def token_bytes(loaded: LoadedModel, config: CollectConfig, keep: Keep) -> dict[str, float]:
    """Bytes on disk per token and table, before anything has run."""
    n_layers, n_heads = loaded.n_layers, loaded.n_heads
    dtype = config.store_dtype if config.store_dtype != "auto" else str(loaded.model.dtype).removeprefix("torch.")
    sizes = {"token_steps": ROW_BYTES["token_key"]}
    if keep.tokens:
        sizes["token_steps"] += ROW_BYTES["tokens"] + ROW_BYTES["topk"] * config.topk
    if keep.layers:
        sizes["layer_summaries"] = ROW_BYTES["layers"] * (n_layers + 2)
    if keep.heads:
        sizes["head_summaries"] = ROW_BYTES["heads"] * n_layers * n_heads
    for item in keep.activations:
        if item.scope != "last":
            width = site_width(loaded, item.site) * WIDTHS.get(dtype, 4)
            share = len(item.resolve(n_layers)) * (width + 1.0)
            sizes["activations"] = sizes.get("activations", 0.0) + share
    return sizes


def site_width(loaded: LoadedModel, site: str) -> int:
    """Elements of a vector of `site`."""
    config = loaded.config
    d_head = getattr(config, "head_dim", None) or loaded.d_model // loaded.n_heads
    shared = getattr(config, "num_key_value_heads", None) or loaded.n_heads
    if site in ("z", "rot_q"):
        return loaded.n_heads * d_head
    if site in ("v", "rot_k"):
        return shared * d_head
    if site == "mlp_post":
        return int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * loaded.d_model)
    return loaded.d_model


def make_plan(loaded: LoadedModel, config: CollectConfig, keep: Keep, lengths: np.ndarray) -> Plan:
    """Group work items of the given prompt lengths into segments; everything else follows from the configuration."""
    sizes = token_bytes(loaded, config, keep)
    on_cpu = loaded.device.type == "cpu"
    budget = CPU_BUDGET if on_cpu else GPU_BUDGET
    widest = 4 * max(loaded.d_vocab, (loaded.n_layers + 2) * loaded.d_model)
    per_item = config.samples * (lengths + config.max_new_tokens) * sum(sizes.values())
    return Plan(
        segments=_segments(per_item, config),
        n_items=len(lengths),
        n_sequences=len(lengths) * config.samples,
        n_prompt_tokens=int(lengths.sum()) * config.samples,
        batch_size=config.batch_size,
        chunk=int(np.clip(budget // (config.batch_size * widest), 16, 4096)),
        logit_rows=max(1, (LOGIT_BYTES_CPU if on_cpu else LOGIT_BYTES_GPU) // (4 * loaded.d_vocab)),
        block_bytes=(LOGIT_BYTES_CPU if on_cpu else LOGIT_BYTES_GPU),
        bytes_per_token=sizes,
    )


def _segments(per_item: np.ndarray, config: CollectConfig) -> list[list[int]]:
    """Half-open item ranges: bounded bytes, at most 32 batches, at least 8 segments (or one per batch)."""
    n_items = len(per_item)
    items_per_batch = max(1, config.batch_size // config.samples)
    if config.segment_items is not None:
        most = config.segment_items
    else:
        share = max(items_per_batch, n_items // LEAST_SEGMENTS // items_per_batch * items_per_batch)
        most = max(1, min(share, SEGMENT_BATCHES * config.batch_size // config.samples))
    segments: list[list[int]] = []
    start, size = 0, 0.0
    for i in range(n_items):
        full = i - start >= most or (config.segment_items is None and size + per_item[i] > SEGMENT_BYTES)
        if i > start and full:
            segments.append([start, i])
            start, size = i, 0.0
        size += float(per_item[i])
    if n_items > start:
        segments.append([start, n_items])
    return segments


def estimate(plan: Plan, config: CollectConfig, keep: Keep, n_layers: int) -> Estimate:
    """Tokens, bytes and files; an upper bound where the model may stop before `max_new_tokens`."""
    n_tokens = plan.n_prompt_tokens + plan.n_sequences * config.max_new_tokens
    table_bytes = {table: int(size * n_tokens) for table, size in plan.bytes_per_token.items()}
    table_bytes["sequences"] = int(ROW_BYTES["sequence"] * plan.n_sequences)
    vectors = sum(len(item.resolve(n_layers)) for item in keep.activations)
    tables = 3 + keep.layers + keep.heads + keep.embeddings
    return Estimate(
        n_sequences=plan.n_sequences,
        n_tokens=n_tokens,
        table_bytes=table_bytes,
        n_files=len(plan.segments) * (tables + vectors + 1),
        exact=config.max_new_tokens == 0,
    )


def batches(lengths: Sequence[int], n_samples: int, batch_size: int) -> list[list[tuple[int, int]]]:
    """Group a segment's (item offset, sample) pairs into batches of similar prompt length, the longest first.

    A function of the plan and the tokens alone, so that a resumed run makes the same batches.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows = [(i, sample) for i in order for sample in range(n_samples)]
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
