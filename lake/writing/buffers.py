"""Rows of one table that wait to be written: kept as they come, joined and sorted when they go."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from ..errors import UsageError, did_you_mean
from ..tables.table import Table
from ..vectors import to_binary, width
from . import keys
from .columns import Chunk, Repeat, chunk_of, joined, length, numpy_type

_WRITER_FILLS = frozenset({"run_id", "dtype", "dim", "vector"})


class TableBuffer:
    """The buffered rows of one table, one partition and one vector format."""

    def __init__(self, table: Table, constants: Mapping[str, int | str]) -> None:
        self.table = table
        self.constants = dict(constants)
        self.given = [c for c in table.columns if c.name not in constants and c.name != table.vector]
        self._plan = [(c, numpy_type(c)) for c in self.given]
        self._names = frozenset(c.name for c in self.given)
        self._required = frozenset(c.name for c in self.given if c.required)
        self._chunks: dict[str, list[Chunk | Repeat]] = {c.name: [] for c in self.given}
        self._vectors: list[np.ndarray] = []
        self.n_rows = 0
        self.n_bytes = 0

    def append(self, columns: Mapping[str, object], vectors: np.ndarray | None = None) -> int:
        """Add rows; returns the bytes they hold. Arrays are kept, not copied: the caller must not write into them."""
        self._check_names(columns)
        n_rows = len(vectors) if vectors is not None else length(columns.values())
        n_bytes = 0
        chunks = {}
        for column, plain in self._plan:
            chunk = chunk_of(self.table, column, columns.get(column.name), n_rows, plain)
            n_bytes += 0 if isinstance(chunk, Repeat) else chunk.nbytes
            chunks[column.name] = chunk
        if not n_rows:
            return 0
        for name, chunk in chunks.items():
            self._chunks[name].append(chunk)
        if vectors is not None:
            self._vectors.append(vectors)
            n_bytes += vectors.nbytes
        self.n_rows += n_rows
        self.n_bytes += n_bytes
        return n_bytes

    def take(self) -> tuple[pa.Table, dict[str, pa.Array]]:
        """The rows in key order as an Arrow table, and the key columns; the buffer is empty afterwards."""
        n_rows, schema = self.n_rows, self.file_schema()
        columns = {c.name: joined(c, self._chunks[c.name]) for c in self.given}
        columns |= {
            name: pa.repeat(pa.scalar(value, schema.field(name).type), n_rows) for name, value in self.constants.items()
        }
        key = {name: columns[name] for name in self.table.key if name not in self.constants}
        order = keys.order_rows(key)
        if order.permutation is not None:
            moved = pa.array(order.permutation)
            columns = {name: c if name in self.constants else c.take(moved) for name, c in columns.items()}
            key = {name: columns[name] for name in key}
        if order.duplicate is not None:
            row = {name: column[order.duplicate].as_py() for name, column in key.items()}
            raise UsageError(
                f"{self.table.name}: two rows of one segment have the same key {row or dict(self.constants)}."
            )
        if self.table.vector:
            columns[self.table.vector] = to_binary(_gathered(self._vectors, order.permutation))
        for chunks in self._chunks.values():
            chunks.clear()
        self._vectors = []
        self.n_rows = self.n_bytes = 0
        return pa.table([columns[name] for name in self.table.names], schema=schema), key

    def file_schema(self) -> pa.Schema:
        """The Arrow schema of the file: vectors as fixed-size binary with dtype and dim in the field's metadata."""
        schema = self.table.schema
        if not self.table.vector:
            return schema
        dtype, dim = str(self.constants["dtype"]), int(self.constants["dim"])
        place = schema.get_field_index(self.table.vector)
        meta = {"dtype": dtype, "dim": str(dim)}
        return schema.set(place, pa.field(self.table.vector, pa.binary(width(dtype, dim)), False, meta))

    def _check_names(self, columns: Mapping[str, object]) -> None:
        given = columns.keys()
        if given <= self._names and self._required <= given:
            return
        for name in given:
            if name in self._names:
                continue
            if name in self.constants or name in _WRITER_FILLS:
                raise UsageError(f"{self.table.name}.{name} is filled in by the writer; leave it out of the columns.")
            raise UsageError(f"{self.table.name} has no column {name!r}.{did_you_mean(name, self._names, show=40)}")
        missing = sorted(self._required - given)
        raise UsageError(
            f"{self.table.name} needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"given: {', '.join(sorted(given))}."
        )


def _gathered(vectors: list[np.ndarray], permutation: np.ndarray | None) -> np.ndarray:
    """All vectors in key order, with one copy at most."""
    if permutation is None:
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
    out = np.empty((len(permutation), vectors[0].shape[1]), vectors[0].dtype)
    place = np.empty(len(permutation), np.int64)
    place[permutation] = np.arange(len(permutation))
    start = 0
    for chunk in vectors:
        out[place[start : start + len(chunk)]] = chunk
        start += len(chunk)
    return out
