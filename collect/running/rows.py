"""Blocks of one batch to rows of the tables, sorted by key; knows shapes and columns, not models."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ...lake.writing.segments import SegmentWriter
from ..decoding.blocks import Block, EdgeBlock, PredictionBlock
from ..decoding.sequence import Sequence
from ..observing.kept import Kept
from .stack_rows import StackRows, joined, nullable

DISTRIBUTION_COLUMNS = ("logprob", "entropy_bits", "rank", "top1_prob", "margin", "top10_mass")


@dataclass
class BatchRows:
    """Collects the blocks of one batch and writes them; state rows leave early, token rows at the end."""

    segment: SegmentWriter
    kept: Kept
    batch: list[Sequence]
    n_layers: dict[str, int]
    """Of each stack, in the order in which they read."""
    predictions: list[PredictionBlock] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stacks = {
            stack: StackRows(self.segment, self.kept, self.batch, stack, n) for stack, n in self.n_layers.items()
        }

    def add(self, block: Block) -> None:
        """Take one block; flushes the state rows when they have grown large."""
        if isinstance(block, PredictionBlock):
            self.predictions.append(block)
        elif isinstance(block, EdgeBlock):
            self._write_edges(block)
        else:
            self.stacks[block.stack].add(block)

    def flush_states(self) -> None:
        """Write what has been collected about states and attention."""
        for rows in self.stacks.values():
            rows.flush()

    @property
    def _ids(self) -> np.ndarray:
        return np.array([s.sequence_id for s in self.batch], dtype=np.int64)

    def _write_edges(self, block: EdgeBlock) -> None:
        sequence = self._ids[block.rows]
        layer, head, key = (block.values[name] for name in ("layer", "head", "key"))
        order = np.lexsort((key, head, layer, block.positions, sequence))
        columns = {
            "sequence_id": sequence[order],
            "position": block.positions[order].astype(np.int32),
            "layer": layer[order].astype(np.int32),
            "head": head[order].astype(np.int16),
            "kind": block.kind,
            "stack": block.stack,
            "key": key[order].astype(np.int32),
            "weight": block.values["weight"][order],
        }
        self.segment.append("attention_edges", columns)

    def write_tokens(self, tokens: "TokenColumns") -> None:
        """Write the batch's `token_steps`: every token, with the distribution that predicted it where one did."""
        lengths = np.array([s.n_prompt + len(s.generated) for s in self.batch])
        starts = np.concatenate(([0], np.cumsum(lengths)))
        n = int(starts[-1])
        sequence = np.repeat(np.arange(len(self.batch)), lengths)
        position = np.arange(n) - starts[sequence]
        step = position - np.array([s.n_prompt for s in self.batch])[sequence]
        n_encoded = np.array([s.n_encoded for s in self.batch])[sequence]
        columns: dict[str, object] = {
            "sequence_id": self._ids[sequence],
            "position": position.astype(np.int32),
            "stack": pa.DictionaryArray.from_arrays((position >= n_encoded).astype(np.int8), ["encoder", "decoder"]),
            "step": pa.array(step.astype(np.int32), mask=step < 0),
            "is_prompt": step < 0,
            "is_forced": self._given(starts, n),
            "token_id": tokens.ids.astype(np.int32),
            "token": pa.array(tokens.display, pa.string()),
            "char_end": pa.array(np.maximum(tokens.char_ends, 0), mask=tokens.char_ends < 0),
        }
        columns |= self._distribution_columns(starts, n)
        order = np.lexsort((position, self._ids[sequence]))
        if not np.array_equal(order, np.arange(n)):
            columns = {name: _reordered(values, order) for name, values in columns.items()}
        self.segment.append("token_steps", columns)

    def _given(self, starts: np.ndarray, n: int) -> np.ndarray:
        """Which tokens of the completions were given rather than chosen."""
        given = np.zeros(n, dtype=bool)
        for start, sequence in zip(starts, self.batch, strict=False):
            given[[start + sequence.n_prompt + step for step in sequence.given_steps]] = True
        return given

    def _distribution_columns(self, starts: np.ndarray, n: int) -> dict[str, object]:
        """Scatter the predictions to their tokens; tokens that nothing predicted stay null."""
        columns: dict[str, object] = {}
        sampled = ("sampling_logprob", "sampling_entropy_bits") if self.kept.tokens else ()
        for name in (*DISTRIBUTION_COLUMNS, *sampled, "latency_ms"):
            blocks = [block for block in self.predictions if name in block.values]
            if blocks:
                rows, positions = joined(blocks, None)
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
        rows, positions = joined(blocks, None)
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
