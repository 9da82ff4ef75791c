"""Blocks of one batch to rows of the observation tables, sorted by key; knows shapes and columns, not models."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from .decode import EDGES, PREDICTIONS, Block, Sequence
from .observation import Wishes, summary_sites
from .summaries import STATE_STATISTICS, uniform_causal_basin

FLUSH_BYTES = 64 * 2**20
ATTENTION_COLUMNS = tuple(
    f"attn_{name}_{reduction}" for name in ("entropy_bits", "max_weight") for reduction in ("mean", "min", "max")
)
DISTRIBUTION_COLUMNS = ("logprob", "entropy_bits", "rank", "top1_prob", "margin", "top10_mass")


class Segment(Protocol):
    """The part of the store's segment writer that collection uses."""

    def append(self, table: str, columns: dict) -> None: ...

    def append_vectors(
        self, table: str, *, columns: dict, vectors: np.ndarray, dtype: str, layer: int | None, site: str | None
    ) -> None: ...


def nullable(values: np.ndarray) -> pa.Array:
    """An Arrow array in which NaN is null."""
    return pa.array(values, from_pandas=True)


@dataclass
class BatchRows:
    """Collects the blocks of one batch and writes them; state rows leave early, token rows at the end."""

    segment: Segment
    wishes: Wishes
    batch: list[Sequence]
    n_layers: int
    states: list[Block] = field(default_factory=list)
    predictions: list[Block] = field(default_factory=list)
    n_bytes: int = 0

    def add(self, kind: str, block: Block) -> None:
        """Take one block; flushes the state rows when they have grown large."""
        if kind == PREDICTIONS:
            self.predictions.append(block)
            return
        if kind == EDGES:
            self._write_edges(block)
            return
        self.states.append(block)
        self.n_bytes += sum(values.nbytes for values in block.values.values())
        if self.n_bytes > FLUSH_BYTES:
            self.flush_states()

    def flush_states(self) -> None:
        """Write what has been collected about states and attention, sorted by sequence and position."""
        if not self.states:
            return
        rows, positions = _joined(self.states, None)
        order = np.lexsort((positions, self._ids[rows]))
        rows, positions = rows[order], positions[order]
        key = {"sequence_id": self._ids[rows], "position": positions.astype(np.int32)}
        if self.wishes.layers:
            self._write_layers(key, order)
        if self.wishes.heads:
            self._write_heads(key, rows, positions, order)
        self._write_vectors()
        self.states, self.n_bytes = [], 0

    @property
    def _ids(self) -> np.ndarray:
        return np.array([s.sequence_id for s in self.batch], dtype=np.int64)

    def _column(self, name: str, order: np.ndarray) -> np.ndarray:
        return np.concatenate([block.values[name] for block in self.states])[order]

    def _write_layers(self, key: dict[str, np.ndarray], order: np.ndarray) -> None:
        sites = summary_sites(self.n_layers)
        by_key = sorted(range(len(sites)), key=lambda i: (sites[i][1], sites[i][0]))
        names = sorted({site for site, _ in sites})
        n, n_sites = len(order), len(sites)
        statistics = self._column("states", order)[:, by_key]
        at_start = np.repeat(key["position"] == 0, n_sites)
        columns: dict[str, object] = {name: np.repeat(values, n_sites) for name, values in key.items()}
        columns["layer"] = np.tile(np.array([sites[i][1] for i in by_key], dtype=np.int32), n)
        codes = np.tile(np.array([names.index(sites[i][0]) for i in by_key], dtype=np.int8), n)
        columns["site"] = pa.DictionaryArray.from_arrays(codes, names)
        columns["stack"] = "decoder"
        for i, name in enumerate(STATE_STATISTICS):
            values = statistics[:, :, i].reshape(-1)
            if name in ("n_nan", "n_inf"):
                columns[name] = values.astype(np.int32)
                continue
            if name == "cos_prev_position":
                # In a padded row the position before the first token holds no token.
                values = np.where(at_start, np.nan, values)
            columns[name] = nullable(values)
        columns |= self._attention_columns(order, [sites[i] for i in by_key])
        self.segment.append("layer_summaries", columns)

    def _attention_columns(self, order: np.ndarray, sites: list[tuple[str, int]]) -> dict[str, object]:
        """Attention summaries over heads, on the resid_post rows of each layer and null elsewhere."""
        if "attention" not in self.states[0].values:
            return {}
        attention = self._column("attention", order)
        spread = np.full((len(order), len(sites), attention.shape[-1]), np.nan, dtype=np.float32)
        for i, (site, layer) in enumerate(sites):
            if site == "resid_post":
                spread[:, i] = attention[:, layer]
        return {name: nullable(spread[:, :, i].reshape(-1)) for i, name in enumerate(ATTENTION_COLUMNS)}

    def _write_heads(
        self, key: dict[str, np.ndarray], rows: np.ndarray, positions: np.ndarray, order: np.ndarray
    ) -> None:
        if "head_entropy" not in self.states[0].values:
            return
        entropy = self._column("head_entropy", order)
        weight, max_key = (self._column(name, order).reshape(-1) for name in ("head_weight", "head_key"))
        broken = np.isnan(weight)
        n, n_layers, n_heads = entropy.shape
        per_token = n_layers * n_heads
        columns: dict[str, object] = {name: np.repeat(values, per_token) for name, values in key.items()}
        columns |= {
            "layer": np.tile(np.repeat(np.arange(n_layers, dtype=np.int32), n_heads), n),
            "head": np.tile(np.arange(n_heads, dtype=np.int16), n * n_layers),
            "kind": "self",
            "stack": "decoder",
            "n_keys": np.repeat(self._column("n_keys", order).reshape(-1), n_heads),
            "entropy_bits": nullable(entropy.reshape(-1)),
            "max_weight": nullable(weight),
            "max_key": pa.array(max_key, mask=broken) if broken.any() else max_key,
        }
        columns |= self._basin_columns(rows, positions, entropy.shape)
        self.segment.append("head_summaries", columns)

    def _basin_columns(self, rows: np.ndarray, positions: np.ndarray, shape: tuple[int, ...]) -> dict[str, object]:
        """Basin ratio on the last prompt position of each sequence; all null needs no array."""
        n_prompt = np.array([s.n_prompt for s in self.batch])
        last = np.flatnonzero(positions == n_prompt[rows] - 1)
        if len(last) == 0 or self.batch[int(rows[last[0]])].basin is None:
            return {}
        ratio = np.full(shape, np.nan, dtype=np.float32)
        relative = np.full(shape, np.nan, dtype=np.float32)
        for i in last:
            sequence = self.batch[int(rows[i])]
            assert sequence.basin is not None
            ratio[i] = sequence.basin if sequence.n_prompt >= 3 else 1.0
            relative[i] = ratio[i] / uniform_causal_basin(sequence.n_prompt)
        return {"basin_ratio": nullable(ratio.reshape(-1)), "basin_ratio_to_uniform": nullable(relative.reshape(-1))}

    def _write_edges(self, block: Block) -> None:
        sequence = self._ids[block.rows]
        layer, head, key = (block.values[name] for name in ("layer", "head", "key"))
        order = np.lexsort((key, head, layer, block.positions, sequence))
        columns = {
            "sequence_id": sequence[order],
            "position": block.positions[order].astype(np.int32),
            "layer": layer[order].astype(np.int32),
            "head": head[order].astype(np.int16),
            "kind": "self",
            "stack": "decoder",
            "key": key[order].astype(np.int32),
            "weight": block.values["weight"][order],
        }
        self.segment.append("attention_edges", columns)

    def _write_vectors(self) -> None:
        for wish in self.wishes.vectors:
            blocks = [block for block in self.states if wish.name in block.values]
            if not blocks:
                continue
            rows, positions = _joined(blocks, wish.scope)
            vectors = np.concatenate([block.values[wish.name] for block in blocks])
            order = np.lexsort((positions, self._ids[rows]))
            self.segment.append_vectors(
                "activations",
                layer=wish.layer,
                site=wish.site,
                columns={
                    "sequence_id": self._ids[rows[order]],
                    "position": positions[order].astype(np.int32),
                    "stack": "decoder",
                },
                vectors=vectors[order],
                dtype=self.wishes.store_dtype,
            )

    def write_tokens(self, tokens: "TokenColumns") -> None:
        """Write the batch's `token_steps`: every token, with the distribution that predicted it where one did."""
        lengths = np.array([s.n_prompt + len(s.generated) for s in self.batch])
        starts = np.concatenate(([0], np.cumsum(lengths)))
        n = int(starts[-1])
        sequence = np.repeat(np.arange(len(self.batch)), lengths)
        position = np.arange(n) - starts[sequence]
        step = position - np.array([s.n_prompt for s in self.batch])[sequence]
        columns: dict[str, object] = {
            "sequence_id": self._ids[sequence],
            "position": position.astype(np.int32),
            "stack": "decoder",
            "step": pa.array(step.astype(np.int32), mask=step < 0),
            "is_prompt": step < 0,
            "is_forced": False,
            "token_id": tokens.ids.astype(np.int32),
            "token": pa.array(tokens.display, pa.string()),
            "char_end": pa.array(np.maximum(tokens.char_ends, 0), mask=tokens.char_ends < 0),
        }
        columns |= self._distribution_columns(starts, n)
        order = np.lexsort((position, self._ids[sequence]))
        if not np.array_equal(order, np.arange(n)):
            columns = {name: _reordered(values, order) for name, values in columns.items()}
        self.segment.append("token_steps", columns)

    def _distribution_columns(self, starts: np.ndarray, n: int) -> dict[str, object]:
        """Scatter the predictions to their tokens; tokens that nothing predicted stay null."""
        columns: dict[str, object] = {}
        sampled = ("sampling_logprob", "sampling_entropy_bits") if self.wishes.tokens else ()
        for name in (*DISTRIBUTION_COLUMNS, *sampled, "latency_ms"):
            blocks = [block for block in self.predictions if name in block.values]
            if blocks:
                rows, positions = _joined(blocks, None)
                values = np.full(n, np.nan, dtype=np.float64 if name == "rank" else np.float32)
                values[starts[rows] + positions] = np.concatenate([block.values[name] for block in blocks])
                columns[name] = nullable(values)
        if "logprob" in columns:
            logprob = columns["logprob"].to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
            columns["surprisal_bits"] = nullable((-logprob / np.log(2.0)).astype(np.float32))
            rank = columns["rank"].to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
            # No logit is larger than NaN: without this, a token of a broken distribution would have rank 0.
            columns["rank"] = nullable(np.where(np.isnan(logprob), np.nan, rank)).cast(pa.int32())
            columns |= self._topk_columns(starts, n)
        return columns

    def _topk_columns(self, starts: np.ndarray, n: int) -> dict[str, object]:
        blocks = [block for block in self.predictions if "topk_ids" in block.values]
        rows, positions = _joined(blocks, None)
        place = starts[rows] + positions
        # A broken distribution (NaN) has no best tokens.
        known = ~np.isnan(np.concatenate([block.values["logprob"] for block in blocks]))
        order = np.flatnonzero(known)[np.argsort(place[known], kind="stable")]
        present = np.zeros(n, dtype=bool)
        present[place[known]] = True
        columns: dict[str, object] = {}
        for name in ("topk_ids", "topk_logprobs"):
            columns[name] = _lists(np.concatenate([block.values[name] for block in blocks])[order], present)
        return columns


@dataclass
class TokenColumns:
    """Per token of a batch, sequence after sequence: id, display string, character end (-1 where unknown)."""

    ids: np.ndarray
    display: list[str]
    char_ends: np.ndarray


def _joined(blocks: list[Block], scope: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Batch rows and positions of blocks, limited to the rows of a scope that is narrower than its block."""
    rows, positions = [], []
    for block in blocks:
        members = block.values.get(f"rows/{scope}")
        rows.append(block.rows if members is None else block.rows[members])
        positions.append(block.positions if members is None else block.positions[members])
    return np.concatenate(rows), np.concatenate(positions)


def _lists(values: np.ndarray, present: np.ndarray) -> pa.ListArray:
    """Rows of a matrix as an Arrow list column with nulls where no row is present."""
    width = values.shape[1]
    offsets = np.concatenate(([0], np.cumsum(present * width))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)), mask=pa.array(~present))


def _reordered(values: object, order: np.ndarray) -> object:
    if isinstance(values, np.ndarray):
        return values[order]
    if isinstance(values, (pa.Array, pa.ListArray)):
        return values.take(pa.array(order))  # type: ignore[attr-defined]
    return values
