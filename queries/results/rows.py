"""Rows of a result, however they come: as plain values, which spares loading Arrow, or as an Arrow table."""

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from ...lake.sql.plain_rows import PlainRows
from ...lake.values import Json

if TYPE_CHECKING:
    import pyarrow as pa

Cell = None | bool | int | float | str | Decimal | list[Any] | Json
Rows: TypeAlias = "PlainRows | pa.Table"


def rows_of(rows: Rows, size: int = 8_192) -> Iterable[tuple[Cell, ...]]:
    """The rows as tuples, converted a piece at a time, so that a large result is not held twice."""
    if isinstance(rows, PlainRows):
        yield from rows.values
        return
    from .cells import cells

    for batch in rows.to_batches(size):
        yield from zip(*(cells(column) for column in batch.columns), strict=True)


def first_rows(rows: Rows, most: int) -> Iterable[tuple[Cell, ...]]:
    """The first rows, at most so many."""
    return rows.values[:most] if isinstance(rows, PlainRows) else rows_of(rows.slice(0, most))


def numeric_columns(rows: Rows) -> list[bool]:
    """Which columns hold numbers."""
    if isinstance(rows, PlainRows):
        return rows.numeric
    from pyarrow import types

    kinds = [field.type for field in rows.schema]
    return [types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) for kind in kinds]
