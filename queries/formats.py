"""Rows for people and programs: table, csv, json, jsonl, parquet; to a stream or, atomically, to a file."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..lake.errors import UsageError, did_you_mean
from ..lake.output import replace_file
from ..lake.printable import printable
from .csv_text import csv_text

FORMATS = ("table", "csv", "json", "jsonl", "parquet")
CELL_WIDTH = 120
TABLE_ROWS = 200


def render(rows: pa.Table, form: str, *, csv_safe: bool = False) -> bytes:
    """The rows in one of FORMATS, encoded; UsageError for another name. `csv_safe`: no formulas for spreadsheets."""
    if csv_safe and form != "csv":
        raise UsageError(f"--csv-safe is of CSV only, not of {form}. Add --format csv.")
    if form == "csv":
        return csv_text(rows, safe=csv_safe, nested=_json).encode()
    if form == "json":
        return (_json(rows.to_pylist()) + "\n").encode()
    if form == "jsonl":
        return "".join(_json(row) + "\n" for row in rows.to_pylist()).encode()
    if form == "parquet":
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(rows, buffer)
        return buffer.getvalue()
    if form == "table":
        return _table(rows).encode()
    raise UsageError(f"There is no format {form!r}.{did_you_mean(form, FORMATS)}")


def emit(rows: pa.Table, form: str, output: Path | None, *, csv_safe: bool = False) -> None:
    """Write rows to `output`, or to stdout if that is None."""
    content = render(rows, form, csv_safe=csv_safe)
    if output is not None:
        replace_file(output, content)
        return
    if form == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is binary: name a file with -o FILE, or choose another --format.")
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _json(value: Any) -> str:
    """JSON text; NaN and infinities, which JSON does not have, as null."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return {name: _finite(item) for name, item in value.items()} if isinstance(value, dict) else value


def _table(rows: pa.Table) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for field in rows.schema:
        table.add_column(printable(field.name), justify="right" if _is_number(field.type) else "left", overflow="fold")
    for row in rows.slice(0, TABLE_ROWS).to_pylist():
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    stream = io.StringIO()
    # A pipe has no width; rows that wrap by chance are worse than long lines.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(file=stream, force_terminal=False, width=width, no_color=True)  # no codes: all is plain text
    console.print(table)
    if rows.num_rows > TABLE_ROWS:
        console.print(f"... {rows.num_rows - TABLE_ROWS:,} more rows; use --format csv, json or parquet to get all.")
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _cell(value: Any) -> str:
    if value is None:
        return "·"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and len(value) > 6:
        return f"[{', '.join(_cell(v) for v in value[:4])}, ... {len(value)}]"
    if isinstance(value, list):
        return f"[{', '.join(_cell(v) for v in value)}]"
    text = printable(str(value))
    return text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…"
