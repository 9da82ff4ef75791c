"""Columns as callers give them (numpy, Arrow, lists, scalars): checked against the schema, joined into Arrow arrays."""

from collections.abc import Iterable, Sized

import numpy as np
import pyarrow as pa

from ..errors import UsageError
from ..tables.table import Column, Table

Chunk = np.ndarray | pa.Array
Several = np.ndarray | pa.Array | pa.ChunkedArray | list[object] | tuple[object, ...]
"""What a column of several rows may be given as."""
_SEVERAL = (np.ndarray, pa.Array, pa.ChunkedArray, list, tuple)


class Repeat:
    """One value for every row of an append."""

    __slots__ = ("value", "n_rows")

    def __init__(self, value: object, n_rows: int) -> None:
        self.value, self.n_rows = value, n_rows

    def __len__(self) -> int:
        return self.n_rows


def length(values: Iterable[object]) -> int:
    """Rows of an append: the length of its first array, 1 if all are scalars."""
    for value in values:
        if isinstance(value, _SEVERAL) and isinstance(value, Sized):
            return len(value)
    return 1


def numpy_type(column: Column) -> np.dtype | None:
    """The numpy type that needs no conversion; None if there is none."""
    return _NUMPY.get(column.type)


def chunk_of(table: Table, column: Column, value: object, n_rows: int, plain: np.dtype | None) -> Chunk | Repeat:
    """One appended column, checked; numpy of the type `plain` passes through untouched."""
    if value is None and not column.required:
        return Repeat(None, n_rows)
    if type(value) is np.ndarray and value.dtype == plain and value.ndim == 1:
        chunk: Chunk | Repeat = value
    elif isinstance(value, _SEVERAL):
        array = _converted(table, column, value)
        if column.required and array.null_count:
            nulls = f"{array.null_count} of {len(array)} values are"
            raise UsageError(f"{table.name}.{column.name} must not be null: {nulls}.")
        chunk = array
    else:
        if value is None:
            raise UsageError(f"{table.name}.{column.name} must not be null.")
        chunk = Repeat(_scalar(table, column, value), n_rows)
    if len(chunk) != n_rows:
        raise UsageError(f"{table.name}.{column.name} has {len(chunk)} values, but the append has {n_rows} rows.")
    return chunk


_TEXT = pa.string()
_NUMPY = {
    pa.int16(): np.dtype(np.int16),
    pa.int32(): np.dtype(np.int32),
    pa.int64(): np.dtype(np.int64),
    pa.float32(): np.dtype(np.float32),
    pa.float64(): np.dtype(np.float64),
}


def _converted(table: Table, column: Column, value: Several) -> pa.Array:
    try:
        if column.name in table.key and pa.types.is_integer(column.type):
            _check_whole(value)
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
        elif isinstance(value, pa.ChunkedArray):
            array = pa.concat_arrays(value.chunks) if value.num_chunks else pa.array([], value.type)
        else:
            array = value
        if array.type != column.type:
            _check_kind(array.type, column.type)
            array = array.cast(column.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        kind = getattr(value, "dtype", None) or getattr(value, "type", None) or type(value).__name__
        raise UsageError(f"{table.name}.{column.name} must be {column.type}, not {kind}: {error}") from error
    return array


def _check_whole(value: Several) -> None:
    """Arrow would take 3.0 out of a list for 3: a key that has been a float may have lost its last digits."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    if isinstance(value, list | tuple) and (floats := [one for one in value if isinstance(one, float | np.floating)]):
        raise TypeError(f"{floats[0]!r} is a float, and keys are whole numbers")


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


def _scalar(table: Table, column: Column, value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) is str and column.type == _TEXT:
        return value
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
    if isinstance(value, str | bool):
        return value
    try:
        return pa.scalar(value, column.type).as_py()
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise UsageError(
            f"{table.name}.{column.name} must be {column.type}, not the value {value!r}: {error}"
        ) from error


def joined(column: Column, chunks: list[Chunk | Repeat]) -> pa.Array:
    """All chunks of a column as one Arrow array."""
    if all(isinstance(chunk, np.ndarray) for chunk in chunks):
        plain = [chunk for chunk in chunks if isinstance(chunk, np.ndarray)]
        return pa.array(plain[0] if len(plain) == 1 else np.concatenate(plain), column.type)
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
        elif isinstance(chunk, np.ndarray):
            arrays.append(pa.array(chunk, column.type))
        else:
            arrays.append(chunk)
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
