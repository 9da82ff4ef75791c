"""Rows of one table that wait to be written: checks columns when they come, joins and sorts them when they go."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from . import keys
from .errors import UsageError, did_you_mean
from .schema import Column, Table
from .vectors import to_binary

Chunk = np.ndarray | pa.Array | pa.ChunkedArray
_WRITER_FILLS = frozenset({"run_id", "dtype", "dim", "vector"})


class Repeat:
    """One value for every row of an append."""

    __slots__ = ("value", "n_rows")

    def __init__(self, value: Any, n_rows: int) -> None:
        self.value, self.n_rows = value, n_rows

    def __len__(self) -> int:
        return self.n_rows


class TableBuffer:
    """The buffered rows of one table, one partition and one vector format."""

    def __init__(self, table: Table, constants: Mapping[str, Any]) -> None:
        self.table = table
        self.constants = dict(constants)
        self.given = [c for c in table.columns if c.name not in constants and c.name != table.vector]
        self._names = frozenset(c.name for c in self.given)
        self._required = frozenset(c.name for c in self.given if c.required)
        self._chunks: dict[str, list[Chunk | Repeat]] = {c.name: [] for c in self.given}
        self._vectors: list[np.ndarray] = []
        self.n_rows = 0
        self.n_bytes = 0

    def append(self, columns: Mapping[str, Any], vectors: np.ndarray | None = None) -> int:
        """Add rows; returns the bytes they hold. Arrays are kept, not copied: the caller must not write into them."""
        self._check_names(columns)
        n_rows = len(vectors) if vectors is not None else _length(columns.values())
        n_bytes = 0
        chunks = {}
        for column in self.given:
            chunk = _chunk(self.table, column, columns.get(column.name), n_rows)
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
        columns = {c.name: _joined(c, self._chunks[c.name]) for c in self.given}
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
        from .vectors import width

        dtype, dim = self.constants["dtype"], self.constants["dim"]
        place = schema.get_field_index(self.table.vector)
        meta = {"dtype": dtype, "dim": str(dim)}
        return schema.set(place, pa.field(self.table.vector, pa.binary(width(dtype, dim)), False, meta))

    def _check_names(self, columns: Mapping[str, Any]) -> None:
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
            f"{self.table.name} needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}; given: {', '.join(sorted(given))}."
        )


def _length(values: Iterable[Any]) -> int:
    for value in values:
        if isinstance(value, np.ndarray | pa.Array | pa.ChunkedArray | list | tuple):
            return len(value)
    return 1


def _chunk(table: Table, column: Column, value: Any, n_rows: int) -> Chunk | Repeat:
    """One appended column, checked; plain numpy of the right type passes through untouched."""
    if (
        isinstance(value, np.ndarray)
        and value.ndim == 1
        and value.dtype == _NUMPY.get(column.type)
        and type(value) is np.ndarray
    ):
        chunk: Chunk | Repeat = value
    elif isinstance(value, np.ndarray | pa.Array | pa.ChunkedArray | list | tuple):
        chunk = _converted(table, column, value)
        if column.required and chunk.null_count:
            raise UsageError(
                f"{table.name}.{column.name} must not be null: {chunk.null_count} of {len(chunk)} values are."
            )
    else:
        if value is None and column.required:
            raise UsageError(f"{table.name}.{column.name} must not be null.")
        chunk = Repeat(_scalar(table, column, value), n_rows)
    if len(chunk) != n_rows:
        raise UsageError(f"{table.name}.{column.name} has {len(chunk)} values, but the append has {n_rows} rows.")
    return chunk


_NUMPY = {
    pa.int16(): np.dtype(np.int16),
    pa.int32(): np.dtype(np.int32),
    pa.int64(): np.dtype(np.int64),
    pa.float32(): np.dtype(np.float32),
    pa.float64(): np.dtype(np.float64),
}


def _converted(table: Table, column: Column, value: Any) -> pa.Array | pa.ChunkedArray:
    try:
        if isinstance(value, np.ndarray) and value.ndim == 2 and pa.types.is_list(column.type):
            flat = pa.array(np.ascontiguousarray(value).reshape(-1))
            offsets = np.arange(0, value.size + 1, value.shape[1] or 1, dtype=np.int32)
            array = pa.ListArray.from_arrays(pa.array(offsets), flat)
        elif isinstance(value, np.ndarray) and value.dtype == object:
            array = pa.array(value.tolist(), column.type)
        elif isinstance(value, np.ndarray):
            array = pa.array(value)
        elif isinstance(value, list | tuple):
            array = pa.array(value, column.type)
        else:
            array = value
        if array.type != column.type:
            _check_kind(array.type, column.type)
            array = array.cast(column.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        kind = getattr(value, "dtype", None) or getattr(value, "type", None) or type(value).__name__
        raise UsageError(f"{table.name}.{column.name} must be {column.type}, not {kind}: {error}") from error
    return array


def _check_kind(given: pa.DataType, wanted: pa.DataType) -> None:
    """Refuse casts that change what a value is: a float is no integer, a number no text."""
    kinds = pa.types
    if kinds.is_null(given) or (kinds.is_dictionary(given) and given.value_type == wanted):
        return
    if kinds.is_list(wanted) and (
        kinds.is_list(given) or kinds.is_large_list(given) or kinds.is_fixed_size_list(given)
    ):
        return _check_kind(given.value_type, wanted.value_type)
    text = kinds.is_large_string(given) or kinds.is_string_view(given)
    fine = (
        (kinds.is_integer(given) and (kinds.is_integer(wanted) or kinds.is_floating(wanted)))
        or (kinds.is_floating(given) and kinds.is_floating(wanted))
        or (kinds.is_timestamp(given) and kinds.is_timestamp(wanted))
        or (text and kinds.is_string(wanted))
    )
    if not fine:
        raise TypeError("the kinds differ")


def _scalar(table: Table, column: Column, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    kinds = pa.types
    whole = isinstance(value, int) and not isinstance(value, bool)
    fine = (
        (kinds.is_integer(column.type) and whole)
        or (kinds.is_floating(column.type) and (whole or isinstance(value, float)))
        or (kinds.is_string(column.type) and isinstance(value, str))
        or (kinds.is_boolean(column.type) and isinstance(value, bool))
        or kinds.is_timestamp(column.type)
    )
    if not fine:
        raise UsageError(f"{table.name}.{column.name} must be {column.type}, not the value {value!r}.")
    try:
        return pa.scalar(value, column.type).as_py()
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise UsageError(
            f"{table.name}.{column.name} must be {column.type}, not the value {value!r}: {error}"
        ) from error


def _joined(column: Column, chunks: list[Chunk | Repeat]) -> pa.Array:
    """All chunks of a column as one Arrow array."""
    if all(isinstance(chunk, np.ndarray) for chunk in chunks):
        return pa.array(chunks[0] if len(chunks) == 1 else np.concatenate(chunks), column.type)  # type: ignore[arg-type]
    if all(isinstance(chunk, Repeat) for chunk in chunks):
        repeats = [chunk for chunk in chunks if isinstance(chunk, Repeat)]
        if all(chunk.value == repeats[0].value for chunk in repeats):
            return pa.repeat(pa.scalar(repeats[0].value, column.type), sum(map(len, repeats)))
        counts = np.fromiter(map(len, repeats), np.int64, len(repeats))
        index = np.repeat(np.arange(len(repeats)), counts)
        return pa.array([chunk.value for chunk in repeats], column.type).take(pa.array(index))
    arrays: list[pa.Array] = []
    for chunk in chunks:
        if isinstance(chunk, Repeat):
            arrays.append(pa.repeat(pa.scalar(chunk.value, column.type), len(chunk)))
        elif isinstance(chunk, pa.ChunkedArray):
            arrays.extend(chunk.chunks)
        else:
            arrays.append(pa.array(chunk, column.type) if isinstance(chunk, np.ndarray) else chunk)
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)


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
