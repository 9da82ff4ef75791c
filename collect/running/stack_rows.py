"""What one stack computed for a batch, to rows of the observation tables sorted by key; knows shapes, not models."""

from collections.abc import Sequence as Several
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from ...lake.errors import ConfigError
from ...lake.tables.uniform_attention import uniform_basin
from ...lake.writing.segments import SegmentWriter
from ..decoding.blocks import PredictionBlock, StateBlock
from ..decoding.sequence import Sequence
from ..models.stack import DECODER
from ..observing.edges import NOTHING
from ..observing.kept import Kept, summary_sites
from ..observing.patterns import KeptPattern
from ..observing.summaries import STATE_STATISTICS

FLUSH_BYTES = 64 * 2**20
ATTENTION_COLUMNS = tuple(
    f"attn_{name}_{reduction}" for name in ("entropy_bits", "max_weight") for reduction in ("mean", "min", "max")
)

WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32"}


class NotStorable(ConfigError):
    """A finite value is too large for the number format that vectors are stored in."""


def nullable(values: np.ndarray) -> pa.Array:
    """An Arrow array in which NaN is null."""
    return pa.array(values, from_pandas=True)


@dataclass
class StackRows:
    """Collects the blocks of states and attention that one stack gives for a batch, and writes them."""

    segment: SegmentWriter
    kept: Kept
    batch: list[Sequence]
    stack: str
    n_layers: int
    states: list[StateBlock] = field(default_factory=list)
    n_bytes: int = 0

    def add(self, block: StateBlock) -> None:
        """Take one block; flushes what has been collected when it has grown large."""
        self._check_range(block)
        self.states.append(block)
        self.n_bytes += sum(values.nbytes for values in block.values.values())
        if self.n_bytes > FLUSH_BYTES:
            self.flush()

    def _check_range(self, block: StateBlock) -> None:
        """NotStorable if a finite value of a vector became infinite in the stored format."""
        for item in self.kept.vectors_of(self.stack):
            largest = float(block.values.get(item.lost, 0.0))
            if largest > 0:
                raise NotStorable(
                    f"{self.stack} layer {item.layer}, {item.site}: a state has a value of {largest:.6g}, which "
                    f"{self.kept.store_dtype} cannot hold; it would be stored as infinity. Nothing of this segment "
                    f"is written. Start a new run with --store-dtype {WIDER[self.kept.store_dtype]}."
                )

    def flush(self) -> None:
        """Write what has been collected about states and attention, sorted by sequence and position."""
        if not self.states:
            return
        rows, positions = joined(self.states, None)
        order = np.lexsort((positions, self.ids[rows]))
        rows, positions = rows[order], positions[order]
        key = {"sequence_id": self.ids[rows], "position": positions.astype(np.int32)}
        if self.kept.layers:
            self._write_layers(key, order, positions == self._firsts[rows])
        for kind in ("self", "cross"):
            if f"{kind}/entropy" in self.states[0].values:
                self._write_heads(kind, key, rows, positions, order)
            self._write_query_edges(kind)
        self._write_patterns()
        self._write_vectors()
        self.states, self.n_bytes = [], 0

    @property
    def ids(self) -> np.ndarray:
        return np.array([s.sequence_id for s in self.batch], dtype=np.int64)

    @property
    def _firsts(self) -> np.ndarray:
        """The first position that the stack reads of each sequence: a decoder's is behind the encoder's."""
        return np.array([s.n_encoded if self.stack == DECODER else 0 for s in self.batch], dtype=np.int64)

    def _attention_layers(self, kind: str) -> tuple[int, ...]:
        return self.kept.attention.numbers(self.stack, kind, self.n_layers)

    def _column(self, name: str, order: np.ndarray) -> np.ndarray:
        return np.concatenate([block.values[name] for block in self.states])[order]

    def _write_layers(self, key: dict[str, np.ndarray], order: np.ndarray, is_first: np.ndarray) -> None:
        sites = summary_sites(self.n_layers)
        by_key = sorted(range(len(sites)), key=lambda i: (sites[i][1], sites[i][0]))
        names = sorted({site for site, _ in sites})
        n, n_sites = len(order), len(sites)
        statistics = self._column("states", order)[:, by_key]
        at_start = np.repeat(is_first, n_sites)
        columns: dict[str, object] = {name: np.repeat(values, n_sites) for name, values in key.items()}
        columns["layer"] = np.tile(np.array([sites[i][1] for i in by_key], dtype=np.int32), n)
        codes = np.tile(np.array([names.index(sites[i][0]) for i in by_key], dtype=np.int8), n)
        columns["site"] = pa.DictionaryArray.from_arrays(codes, names)
        columns["stack"] = self.stack
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
        observed = {layer: i for i, layer in enumerate(self._attention_layers("self"))}
        for i, (site, layer) in enumerate(sites):
            if site == "resid_post" and layer in observed:
                spread[:, i] = attention[:, observed[layer]]
        return {name: nullable(spread[:, :, i].reshape(-1)) for i, name in enumerate(ATTENTION_COLUMNS)}

    def _write_heads(
        self, kind: str, key: dict[str, np.ndarray], rows: np.ndarray, positions: np.ndarray, order: np.ndarray
    ) -> None:
        entropy = self._column(f"{kind}/entropy", order)
        weight, max_key = (self._column(f"{kind}/{name}", order).reshape(-1) for name in ("weight", "key"))
        broken = np.isnan(weight)
        n, n_layers, n_heads = entropy.shape
        per_token = n_layers * n_heads
        columns: dict[str, object] = {name: np.repeat(values, per_token) for name, values in key.items()}
        columns |= {
            "layer": np.tile(np.repeat(np.array(self._attention_layers(kind), dtype=np.int32), n_heads), n),
            "head": np.tile(np.arange(n_heads, dtype=np.int16), n * n_layers),
            "kind": kind,
            "stack": self.stack,
            "n_keys": np.repeat(self._column(f"{kind}/n_keys", order).reshape(-1), n_heads),
            "entropy_bits": nullable(entropy.reshape(-1)),
            "max_weight": nullable(weight),
            "max_key": pa.array(max_key, mask=broken) if broken.any() else max_key,
        }
        if kind == "self":
            columns |= self._basin_columns(rows, positions, entropy.shape)
        self.segment.append("head_summaries", columns)

    def _basin_columns(self, rows: np.ndarray, positions: np.ndarray, shape: tuple[int, ...]) -> dict[str, object]:
        """Basin ratio on the last position of the prompt as the stack reads it; all null needs no array."""
        n_surveyed = np.array([s.n_surveyed for s in self.batch])
        last = np.flatnonzero(positions == n_surveyed[rows] - 1)
        if len(last) == 0 or self.batch[int(rows[last[0]])].basin is None:
            return {}
        ratio = np.full(shape, np.nan, dtype=np.float32)
        relative = np.full(shape, np.nan, dtype=np.float32)
        for i in last:
            sequence = self.batch[int(rows[i])]
            assert sequence.basin is not None
            ratio[i] = sequence.basin if sequence.n_surveyed >= 3 else 1.0
            relative[i] = ratio[i] / uniform_basin(sequence.n_surveyed, causal=not sequence.n_encoded)
        return {"basin_ratio": nullable(ratio.reshape(-1)), "basin_ratio_to_uniform": nullable(relative.reshape(-1))}

    def _write_query_edges(self, kind: str) -> None:
        """Edges of tokens behind the prompt; those of the prompt are known when it has been read whole."""
        for block in self.states:
            weights = block.values.get(f"{kind}/edge_weight")
            if weights is None:
                continue
            row, layer, head, slot = np.nonzero(weights > NOTHING)
            columns = {
                "sequence_id": self.ids[block.rows[row]],
                "position": block.positions[row].astype(np.int32),
                "layer": np.array(self._attention_layers(kind), dtype=np.int32)[layer],
                "head": head.astype(np.int16),
                "kind": kind,
                "stack": self.stack,
                "key": block.values[f"{kind}/edge_key"][row, layer, head, slot],
                "weight": weights[row, layer, head, slot],
            }
            if len(row):
                self.segment.append("attention_edges", columns)

    def _write_patterns(self) -> None:
        for item in self.kept.patterns:
            for kind in ("self", "cross") if item.stack == self.stack else ():
                for block in self.states:
                    if f"pattern/{kind}/{item.layer}/{item.head}" in block.values:
                        self._write_pattern(item, kind, block)

    def _write_pattern(self, item: KeptPattern, kind: str, block: StateBlock) -> None:
        name = f"{kind}/{item.layer}/{item.head}"
        is_generated = block.positions >= np.array([s.n_prompt for s in self.batch])[block.rows]
        chosen = np.flatnonzero((item.scope is None) | (is_generated == (item.scope == "generated")))
        rows, positions = block.rows[chosen], block.positions[chosen]
        is_causal = kind == "self" and self.stack == DECODER
        ends = positions + 1 if is_causal else np.array([s.n_encoded for s in self.batch])[rows]
        weights, first = block.values[f"pattern/{name}"][chosen], block.values[f"first/{name}"][chosen]
        first_key, lists = attention_lists(weights, first, ends)
        columns = {
            "sequence_id": self.ids[rows],
            "position": positions.astype(np.int32),
            "layer": item.layer,
            "head": item.head,
            "kind": kind,
            "stack": self.stack,
            "first_key": first_key,
            "weights": lists,
        }
        if len(rows):
            self.segment.append("attention_patterns", columns)

    def _write_vectors(self) -> None:
        for item in self.kept.vectors_of(self.stack):
            blocks = [block for block in self.states if item.name in block.values]
            if not blocks:
                continue
            rows, positions = joined(blocks, item.scope)
            vectors = np.concatenate([block.values[item.name] for block in blocks])
            order = np.lexsort((positions, self.ids[rows]))
            self.segment.append_vectors(
                "activations",
                layer=item.layer,
                site=item.site,
                columns={
                    "sequence_id": self.ids[rows[order]],
                    "position": positions[order].astype(np.int32),
                    "stack": self.stack,
                },
                vectors=vectors[order],
                dtype=self.kept.store_dtype,
            )


def joined(blocks: Several[StateBlock] | Several[PredictionBlock], scope: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Batch rows and positions of blocks, limited to the rows of a scope that is narrower than its block."""
    rows = [block.rows[block.inside(scope)] for block in blocks]
    positions = [block.positions[block.inside(scope)] for block in blocks]
    return np.concatenate(rows), np.concatenate(positions)


def attention_lists(
    weights: Float[np.ndarray, "row key"], first: Int[np.ndarray, " row"], ends: Int[np.ndarray, " row"]
) -> tuple[Int[np.ndarray, " row"], pa.ListArray]:
    """Each row's weights from the first key that gets any to position `ends`, and the position of that first key.

    `first`: position of a row's first column, negative where it holds padding. A row with a NaN is null.
    """
    columns = np.arange(weights.shape[1])
    inside = (columns >= -first[:, None]) & (columns < (ends - first)[:, None])
    given = inside & (weights != 0)
    low = np.where(given.any(1), given.argmax(1), np.maximum(-first, 0))
    kept = inside & (columns >= low[:, None])
    offsets = np.concatenate(([0], np.cumsum(kept.sum(1)))).astype(np.int32)
    broken = np.isnan(np.where(inside, weights, 0)).any(1)
    lists = pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(weights[kept].astype(np.float32)), mask=pa.array(broken)
    )
    return (low + first).astype(np.int32), lists
