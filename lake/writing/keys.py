"""Order of rows: sorting by a table's key, finding duplicates, and the range of each key column."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Key = tuple[tuple[int, Any], ...]
"""A row's key for comparing; nulls sort first."""


@dataclass(frozen=True)
class Order:
    """How to bring rows into key order: None where they are in order already."""

    permutation: np.ndarray | None
    duplicate: int | None
    """Index (after sorting) of a row whose key equals the one before it."""


def order_rows(columns: dict[str, pa.Array]) -> Order:
    """The stable order of rows by the given key columns, first column first."""
    codes = [_codes(column) for column in columns.values()]
    codes = [code for code in codes if code is not None]
    n_rows = len(next(iter(columns.values())))
    if not codes:
        return Order(None, 1 if n_rows > 1 else None)
    packed = _pack(codes)
    if packed is None:
        permutation = np.lexsort(codes[::-1])
        same = np.all([np.diff(code[permutation]) == 0 for code in codes], axis=0)
        return Order(permutation, _first(same))
    steps = np.diff(packed)
    if not len(steps) or steps.min() > 0:
        return Order(None, None)
    if steps.min() == 0:
        return Order(None, _first(steps == 0))
    permutation = np.argsort(packed, kind="stable")
    return Order(permutation, _first(np.diff(packed[permutation]) == 0))


def _first(flags: np.ndarray) -> int | None:
    where = np.flatnonzero(flags)
    return int(where[0]) + 1 if len(where) else None


def _codes(column: pa.Array) -> np.ndarray | None:
    """Whole numbers from 0 that sort like the column, nulls first; None for a constant column."""
    if pa.types.is_string(column.type):
        encoded = column.dictionary_encode()
        ranks = np.empty(len(encoded.dictionary), np.int64)
        ranks[pc.call_function("array_sort_indices", [encoded.dictionary]).to_numpy()] = np.arange(len(ranks))
        indices = encoded.indices
        values = (
            ranks[indices.fill_null(0).to_numpy(zero_copy_only=False)]
            if len(ranks)
            else np.zeros(len(column), np.int64)
        )
    else:
        values = column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if not len(values):
        return None
    nulls = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    low = values.min() if nulls is None or not (~nulls).any() else values[~nulls].min()
    values = values - low
    if nulls is not None:
        values = np.where(nulls, 0, values + 1)
    return values if values.max() > 0 else None


def _pack(codes: list[np.ndarray]) -> np.ndarray | None:
    """The codes as one integer per row; None if they do not fit 63 bits."""
    total = 1
    for code in codes:
        total *= int(code.max()) + 1
    if total >= 2**63:
        return None
    packed = codes[0]
    for code in codes[1:]:
        packed = packed * (int(code.max()) + 1) + code
    return packed


def key_of(columns: dict[str, pa.Array], row: int) -> Key:
    """The key of one row, comparable with other keys of the table."""
    values = [column[row].as_py() for column in columns.values()]
    return tuple((0, 0) if value is None else (1, value) for value in values)


def key_ranges(columns: dict[str, pa.Array]) -> dict[str, list[int | str]]:
    """Smallest and largest value of each key column that has any."""
    ranges = {}
    for name, column in columns.items():
        ends = pc.call_function("min_max", [column])
        if ends["min"].is_valid:
            ranges[name] = [ends["min"].as_py(), ends["max"].as_py()]
    return ranges


def merge_ranges(first: dict[str, list[Any]], second: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The ranges that cover both."""
    merged = dict(first)
    for name, (low, high) in second.items():
        old = merged.get(name, [low, high])
        merged[name] = [min(old[0], low), max(old[1], high)]
    return merged
