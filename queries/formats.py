"""Rows for people and programs: table, csv, json, jsonl, parquet; to a stream or, atomically, to a file."""

import io
import json
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..lake.errors import UsageError, did_you_mean
from .replacement import replace_file

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("table", "csv", "json", "jsonl", "parquet")
CELL_WIDTH = 60
TABLE_ROWS = 200


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control, format and bidi characters shown as escapes."""
    return "".join(c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode("ascii") for c in text)


def render(frame: "pl.DataFrame", form: str) -> bytes:
    """The rows in one of FORMATS, encoded; UsageError for another name."""
    if form == "csv":
        return _flat(frame).write_csv().encode()
    if form == "json":
        return (json.dumps(_records(frame), ensure_ascii=False, default=str, allow_nan=False) + "\n").encode()
    if form == "jsonl":
        lines = (json.dumps(row, ensure_ascii=False, default=str, allow_nan=False) for row in _records(frame))
        return "".join(line + "\n" for line in lines).encode()
    if form == "parquet":
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        return buffer.getvalue()
    if form == "table":
        return _table(frame).encode()
    raise UsageError(f"There is no format {form!r}.{did_you_mean(form, FORMATS)}")


def emit(frame: "pl.DataFrame", form: str, output: Path | None) -> None:
    """Write rows to `output`, or to stdout if that is None."""
    content = render(frame, form)
    if output is not None:
        replace_file(output, content)
        return
    if form == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is binary: name a file with -o FILE, or choose another --format.")
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _records(frame: "pl.DataFrame") -> list[dict[str, Any]]:
    """Rows as plain values; NaN and infinities, which JSON does not have, as null."""
    import polars as pl

    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    finite = frame.with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name)).otherwise(None).alias(name) for name in floats
    )
    return finite.to_dicts()


def _flat(frame: "pl.DataFrame") -> "pl.DataFrame":
    """Nested columns as JSON text, because CSV has no lists."""
    import polars as pl

    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.with_columns(
        pl.Series(name, [None if value is None else json.dumps(value, default=str) for value in frame[name].to_list()])
        for name in nested
    )


def _table(frame: "pl.DataFrame") -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, kind in frame.schema.items():
        table.add_column(name, justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.head(TABLE_ROWS).iter_rows():
        table.add_row(*(Text(_cell(value)) for value in row))
    stream = io.StringIO()
    # A pipe has no width; rows that wrap by chance are worse than long lines.
    on_terminal = sys.stdout.isatty()
    console = Console(file=stream, force_terminal=on_terminal, width=None if on_terminal else 10_000, no_color=True)
    console.print(table)
    if frame.height > TABLE_ROWS:
        console.print(f"... {frame.height - TABLE_ROWS:,} more rows; use --format csv, json or parquet to get all.")
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


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
