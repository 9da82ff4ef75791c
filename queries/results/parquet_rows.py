"""Rows as a Parquet file, with types that Parquet has."""

from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ...lake.sql.plain_rows import PlainRows
from .cells import cells
from .json_text import json_text
from .rows import Rows


def write_parquet(rows: Rows, stream: BinaryIO) -> None:
    """Write the rows of an Arrow table; plain values have lost how wide their numbers were."""
    if isinstance(rows, PlainRows):
        raise TypeError("rows for a Parquet file must come as an Arrow table")
    pq.write_table(_for_parquet(rows), stream, compression="zstd")


def _for_parquet(rows: pa.Table) -> pa.Table:
    """The rows with types that Parquet has: intervals as text, sums of whole numbers as int64 where they fit."""
    for index, field in enumerate(rows.schema):
        column = rows.column(index)
        if _holds_interval(field.type):
            text = [value if isinstance(value, str | None) else json_text(value) for value in cells(column)]
            rows = rows.set_column(index, field.name, pa.array(text, pa.string()))
        elif pa.types.is_decimal(field.type) and field.type.scale == 0:
            try:
                rows = rows.set_column(index, field.name, column.cast(pa.int64()))
            except pa.ArrowInvalid:
                continue  # too large for int64: stays a decimal
    return rows


def _holds_interval(kind: pa.DataType) -> bool:
    return pa.types.is_interval(kind) or any(_holds_interval(kind.field(i).type) for i in range(kind.num_fields))
