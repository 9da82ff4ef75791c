"""What will run, decided before anything runs: segments, batches, chunk length, and an estimate of tokens and bytes."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ....lake.errors import UsageError
from ....lake.values import Json
from ...configuration.config import CollectConfig
from ...configuration.keep import Keep
from ...decoding.reading.reading import Reading
from ...inputs.corpora.spool import ItemLengths
from ...models.model import LoadedModel
from ...models.site_widths import site_width
from ...models.stack import DECODER, Stack
from ...observing.budget import Budget
from ...observing.vectors import kept_vectors

SEGMENT_BYTES = 256 * 2**20
SEGMENT_BATCHES = 32
SEGMENT_SEQUENCES = 128
"""However large the batches: a segment's rows lie in memory until it is sealed, some of them three times over."""
SEGMENT_TOKENS = 32_768
"""A segment of vectors alone holds at least so many tokens, if its bytes allow: small files are slow to read."""
LEAST_SEGMENTS = 8
CPU_BUDGET, GPU_BUDGET = 192 * 2**20, 512 * 2**20
LOGIT_BYTES_CPU, LOGIT_BYTES_GPU = 31 * 2**20, 256 * 2**20
"""Logits computed at once: the unembedding matrix is read once for all of their rows, so few rows are slow.

On a CPU less than 32 MiB: larger blocks glibc always maps anew, and each of their pages costs a fault.
"""
BLOCK_BYTES_CPU, BLOCK_BYTES_GPU = 4 * 2**20, 256 * 2**20
"""Logits or attention scores reduced at once: small enough for the processor's cache."""
BLOCK_WIDTHS = 8
"""Width of what one block computes beside its states (the MLP is four states wide, twice with a gate)."""
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
MINILM_DIM = 384
"""Width of the default embedder; another one's is not known before it is loaded."""

# Bytes on disk after compression, fitted to collected runs of several models (`benchmarks.collecting.sizes`).
EDGE_BYTES = 7.5
PATTERN_ROW_BYTES, WEIGHT_BYTES = 4.0, 3.8
KEY_BYTES, DISTRIBUTION_BYTES, TOPK_BYTES, LAYER_BYTES, HEAD_BYTES, SEQUENCE_BYTES = 8.5, 23.0, 1.8, 33.0, 6.3, 160.0
MARGIN = 1.25
"""Of a bound over what was fitted: rows of some texts compress worse."""
VECTOR_TABLES = ("activations", "step_embeddings")
"""Not compressed: their sizes are known."""
SERIES_BYTES = {"tokens": 14.2, "layers": 14.4, "heads": 1.5}
"""Of `generation_series`, per generated token and what is kept."""
SERIES_SEQUENCE_BYTES = 50.0
# Footer, schema and dictionaries of one file, whatever its rows.
FILE_BYTES = {
    "token_steps": 8_600,
    "layer_summaries": 11_500,
    "head_summaries": 7_500,
    "activations": 3_400,
    "attention_edges": 6_000,
    "attention_patterns": 3_000,
    "sequences": 9_000,
    "generation_series": 7_000,
    "operations": 4_400,
    "step_embeddings": 4_500,
}


@dataclass(frozen=True)
class Plan:
    """The part of run.json that resuming obeys: it never changes once a run has started."""

    segments: list[list[int]]
    n_items: int
    n_sequences: int
    n_prompt_tokens: int
    """Those given behind the prompts included."""
    batch_size: int
    chunk: int
    logit_rows: int
    block_bytes: int
    bytes_per_token: dict[str, float]
    reading: Reading = field(default_factory=Reading)
    n_given: int = 0
    """Of these, those given behind the prompts."""
    n_unobserved: int = 0
    """Of these, the tokens of branches before they leave their parents: they are stored, nothing is observed."""

    @property
    def budget(self) -> Budget:
        """The sizes of the pieces in which batches are read."""
        return Budget(self.chunk, self.logit_rows, self.block_bytes)

    def as_json(self) -> Json:
        """Plain values for run.json."""
        return asdict(self)

    def share(self, rank: int, world: int) -> frozenset[int]:
        """Indexes of the segments that writer `rank` of `world` collects: every segment is somebody's, one writer's."""
        if not 0 <= rank < world:
            raise UsageError(f"Rank {rank} of {world} writers cannot be: ranks are 0 to {world - 1}.")
        return frozenset(range(rank, len(self.segments), world))

    @classmethod
    def from_json(cls, values: Json) -> "Plan":
        """The plan of a run that was started earlier."""
        # A run that was planned before sequences could join goes on without.
        return cls(**{**values, "reading": Reading(**{"separate": True, **values.get("reading", {})})})


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


def token_bytes(
    loaded: LoadedModel, stack: Stack, config: CollectConfig, keep: Keep, mean_length: float, mean_keys: float
) -> dict[str, float]:
    """Bytes on disk per table and token that a stack reads, before anything has run.

    `mean_length` in tokens of a sequence, `mean_keys` that a token of the stack attends to.
    """
    sizes = {"token_steps": KEY_BYTES}
    if keep.tokens and stack is loaded.decoder:
        # An id of a vocabulary of d words takes log2(d) bits.
        sizes["token_steps"] += DISTRIBUTION_BYTES + (TOPK_BYTES + math.log2(loaded.d_vocab) / 8) * config.topk
    if keep.layers:
        sizes["layer_summaries"] = LAYER_BYTES * (stack.n_layers + 2)
    if keep.heads:
        n_heads = stack.n_layers * stack.n_heads * len(stack.kinds)
        sizes["head_summaries"] = (HEAD_BYTES + math.log2(max(2.0, mean_length)) / 8) * n_heads
    heads = {
        (layer, head)
        for item in keep.patterns
        for layer, chosen in item.resolve(stack.n_layers, stack.n_heads, loaded.n_layers).items()
        for head in chosen
    }
    if heads:
        sizes["attention_patterns"] = len(heads) * len(stack.kinds) * (PATTERN_ROW_BYTES + WEIGHT_BYTES * mean_keys)
    width = WIDTHS[stored_dtype(loaded, config)]
    for item in kept_vectors(keep, loaded.stacks, observe_prompt=config.observe_prompt):
        if item.scope != "last" and item.stack == stack.name:
            share = site_width(loaded, stack, item.site) * width + 0.5
            sizes["activations"] = sizes.get("activations", 0.0) + share
    return sizes


def stored_dtype(loaded: LoadedModel, config: CollectConfig) -> str:
    """Number format of stored vectors: as asked, or the model's own."""
    if config.store_dtype != "auto":
        return config.store_dtype
    own = str(loaded.model.dtype).removeprefix("torch.")
    return own if own in WIDTHS else "float32"


def make_plan(loaded: LoadedModel, config: CollectConfig, keep: Keep, lengths: ItemLengths, reading: Reading) -> Plan:
    """Group work items of the given lengths into segments; everything else follows from the configuration."""
    n_own = len(loaded.start_ids) + config.max_new_tokens
    n_read = _observed(loaded, lengths, n_own)
    mean_length = float((lengths.prompt + lengths.given).mean()) + n_own
    sizes = {
        stack.name: token_bytes(
            loaded, stack, config, keep, mean_length, _mean_keys(n_read[stack.name], causal=stack.is_causal)
        )
        for stack in loaded.stacks
    }
    on_cpu = loaded.device.type == "cpu"
    budget = CPU_BUDGET if on_cpu else GPU_BUDGET
    # Captured states of all layers and the widest tensors of one block. Logits do not count: they are made
    # `logit_rows` at a time, and scores block by block.
    widest = 4 * (loaded.n_layers + 2 + BLOCK_WIDTHS) * loaded.d_model
    per_item = config.samples * np.sum([n_read[name] * sum(table.values()) for name, table in sizes.items()], axis=0)
    return Plan(
        segments=_segments(per_item, config, mean_length, only_vectors=_only_vectors(keep)),
        n_items=len(lengths.prompt),
        n_sequences=len(lengths.prompt) * config.samples,
        n_prompt_tokens=int((lengths.prompt + lengths.given + len(loaded.start_ids)).sum()) * config.samples,
        n_given=int(lengths.given.sum()) * config.samples,
        n_unobserved=int(lengths.unobserved.sum()) * config.samples,
        batch_size=1 if reading.alone else config.batch_size,
        chunk=int(np.clip(budget // (config.batch_size * widest), 16, 4096)),
        logit_rows=max(1, (LOGIT_BYTES_CPU if on_cpu else LOGIT_BYTES_GPU) // (4 * loaded.d_vocab)),
        block_bytes=BLOCK_BYTES_CPU if on_cpu else BLOCK_BYTES_GPU,
        bytes_per_token=_mean_bytes(sizes, n_read, config),
        reading=reading,
    )


def _observed(loaded: LoadedModel, lengths: ItemLengths, n_own: int) -> dict[str, np.ndarray]:
    """Observed tokens per stack and work item, before anything ends early."""
    if loaded.encoder is None:
        return {DECODER: lengths.prompt + lengths.given + n_own - lengths.unobserved}
    whole = np.where(lengths.unobserved == 0, lengths.prompt, 0)
    before = np.maximum(lengths.unobserved - lengths.prompt, 0)
    return {loaded.encoder.name: whole, DECODER: lengths.given + n_own - before}


def _mean_keys(lengths: np.ndarray, *, causal: bool) -> float:
    """Keys that a token attends to, over all tokens of sequences of these lengths."""
    return float((lengths * (lengths + 1) / (2 if causal else 1)).sum() / max(1, lengths.sum()))


def _mean_bytes(
    sizes: dict[str, dict[str, float]], n_read: dict[str, np.ndarray], config: CollectConfig
) -> dict[str, float]:
    """Bytes per table and observed token, over the tokens of all stacks."""
    n_tokens = {name: float(n_read[name].sum()) for name in sizes if config.observe_prompt or name == DECODER}
    tables = {table for table_sizes in sizes.values() for table in table_sizes}
    whole = sum(n_tokens.values())
    return {
        table: sum(n * sizes[name].get(table, 0.0) for name, n in n_tokens.items()) / whole for table in sorted(tables)
    }


def _segments(
    per_item: np.ndarray, config: CollectConfig, mean_length: float, *, only_vectors: bool
) -> list[list[int]]:
    """Half-open item ranges of whole batches: bounded bytes, at most 32 batches, at least 8 segments if there are.

    A batch is never cut for its bytes: what does not fit into memory is spilled into another file of the segment, while
    a GPU would run all the smaller batches at the price of full ones.
    """
    n_items = len(per_item)
    if config.segment_items is not None:
        return [[i, min(i + config.segment_items, n_items)] for i in range(0, n_items, config.segment_items)]
    items_per_batch = max(1, config.batch_size // config.samples)
    share = max(items_per_batch, n_items // LEAST_SEGMENTS // items_per_batch * items_per_batch)
    most = min(share, _most_sequences(config, mean_length, only_vectors) // config.samples)
    segments: list[list[int]] = []
    size = 0.0
    for start in range(0, n_items, items_per_batch):
        stop = min(start + items_per_batch, n_items)
        n_bytes = float(per_item[start:stop].sum())
        if segments and stop - segments[-1][0] <= most and size + n_bytes <= SEGMENT_BYTES:
            segments[-1][1] = stop
            size += n_bytes
        else:
            segments.append([start, stop])
            size = n_bytes
    return segments


def _only_vectors(keep: Keep) -> bool:
    return bool(keep.activations) and not (keep.tokens or keep.layers or keep.heads or keep.edges)


def _most_sequences(config: CollectConfig, mean_length: float, only_vectors: bool) -> int:
    most = min(SEGMENT_BATCHES * config.batch_size, max(SEGMENT_SEQUENCES, config.batch_size))
    return max(most, math.ceil(SEGMENT_TOKENS / mean_length)) if only_vectors else most


def estimate(plan: Plan, config: CollectConfig, keep: Keep, loaded: LoadedModel) -> Estimate:
    """Tokens, bytes and files; an upper bound where the model may stop before `max_new_tokens`."""
    n_tokens = plan.n_prompt_tokens + plan.n_sequences * config.max_new_tokens
    n_segments = len(plan.segments)
    # Without the prompt's own rows, each sequence still has the state that predicts its first token.
    n_completed = plan.n_sequences * config.max_new_tokens + plan.n_given
    n_observed = n_tokens - plan.n_unobserved if config.observe_prompt else plan.n_sequences + n_completed
    table_bytes = {table: size * n_observed for table, size in plan.bytes_per_token.items()}
    table_bytes["token_steps"] = table_bytes.get("token_steps", 0.0) + KEY_BYTES * (n_tokens - n_observed)
    table_bytes |= {"sequences": SEQUENCE_BYTES * plan.n_sequences, "operations": 0.0}
    per_step = sum(size for name, size in SERIES_BYTES.items() if getattr(keep, name))
    per_sequence = SERIES_SEQUENCE_BYTES + per_step * config.max_new_tokens
    table_bytes["generation_series"] = per_sequence * plan.n_sequences
    if keep.edges:
        # An upper bound: every head of every prompt and generated token is full.
        of_prompt = config.edge_cap if "prompt" in keep.edges and config.observe_prompt else 0
        of_generated = config.edge_cap_generated * config.max_new_tokens if "generated" in keep.edges else 0
        heads = plan.n_sequences * sum(stack.n_layers * stack.n_heads * len(stack.kinds) for stack in loaded.stacks)
        table_bytes["attention_edges"] = EDGE_BYTES * heads * (of_prompt + of_generated)
    if keep.embeddings and config.completes:
        rows = n_completed * len(config.embed_scope) + plan.n_sequences
        table_bytes["step_embeddings"] = rows * (MINILM_DIM * 4.0 + 1.0)
    n_files = dict.fromkeys(table_bytes, n_segments)
    if "activations" in n_files:
        kept = kept_vectors(keep, loaded.stacks, observe_prompt=config.observe_prompt)
        n_files["activations"] = n_segments * len({(item.site, item.layer) for item in kept})
    exact = config.max_new_tokens == 0 and not keep.edges and config.corpus is None
    if not exact:
        table_bytes = {name: size * (1 if name in VECTOR_TABLES else MARGIN) for name, size in table_bytes.items()}
    return Estimate(
        n_sequences=plan.n_sequences,
        n_tokens=n_tokens,
        table_bytes={table: int(size) + n_files[table] * FILE_BYTES[table] for table, size in table_bytes.items()},
        n_files=sum(n_files.values()) + n_segments + 2,
        exact=exact,
    )


def batches(
    lengths: Sequence[int],
    n_samples: int,
    batch_size: int,
    group: Callable[[int], Hashable] = lambda index: None,
    joins: Callable[[Any], bool] = lambda group: False,
) -> list[list[tuple[int, int]]]:
    """Group a segment's (item offset, sample) pairs into batches of similar prompt length, the longest first.

    Items of unequal `group` (of their index) share no batch; a group that `joins` stays whole, and its sequences wait
    for a place. A function of the plan and the tokens alone, so that a resumed run makes the same batches.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: dict[Hashable, list[tuple[int, int]]] = {}
    for i in order:
        groups.setdefault(group(i), []).extend((i, sample) for sample in range(n_samples))
    return [
        rows[start : start + size]
        for key, rows in groups.items()
        for size in (len(rows) if joins(key) else batch_size,)
        for start in range(0, len(rows), size)
    ]
