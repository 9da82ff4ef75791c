"""Rows for people and programs: table, csv, json, jsonl, parquet; to a stream or, atomically and whole, to a file.

How values that look alike are told apart in each format is in docs/files.md.
"""

import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...lake.errors import NotFoundError, UsageError, did_you_mean
from ...lake.output.files import replaced
from ...lake.output.printable import printable
from .json_text import json_text
from .rows import Cell, Rows, rows_of
from .text_table import Layout, table_text

__all__ = ["FORMATS", "SUFFIXES", "emit", "file_format", "printable", "render", "write"]

FORMATS = ("table", "csv", "json", "jsonl", "parquet")
SUFFIXES = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "table",
}
"""What a file's ending says of its format."""


def render(rows: Rows, form: str, layout: Layout | None = None, *, csv_safe: bool = False) -> bytes:
    """The rows in one of FORMATS, encoded; UsageError for another name. `csv_safe`: see `write`."""
    stream = io.BytesIO()
    write(rows, form, stream, layout, csv_safe=csv_safe)
    return stream.getvalue()


def write(rows: Rows, form: str, stream: BinaryIO, layout: Layout | None = None, *, csv_safe: bool = False) -> None:
    """Write the rows to a binary stream, a piece at a time; `layout` is for tables.

    With `csv_safe` texts that a spreadsheet would take for a formula get an apostrophe before them.
    """
    if csv_safe and form != "csv":
        raise UsageError(f"--csv-safe is of CSV only, not of {form}. Add --format csv.")
    if form == "csv":
        _write_csv(rows, stream, csv_safe)
    elif form == "json":
        _write_json(rows, stream)
    elif form == "jsonl":
        stream.writelines(f"{line}\n".encode() for line in _objects(rows))
    elif form == "parquet":
        from .parquet_rows import write_parquet

        write_parquet(rows, stream)
    elif form == "table":
        stream.write(table_text(rows, layout or Layout()).encode())
    else:
        raise UsageError(f"There is no format {form!r}.{did_you_mean(form, FORMATS)}")


def file_format(output: Path, form: str | None) -> str:
    """The format of a file: what its ending says, or `form` where the ending says nothing; both must agree."""
    ending = SUFFIXES.get(output.suffix.lower())
    if form is not None and form not in FORMATS:
        raise UsageError(f"There is no format {form!r}.{did_you_mean(form, FORMATS)}")
    if ending is None and form is None:
        raise UsageError(
            f"-o {output}: the ending {output.suffix!r} does not say a format. Possible: {', '.join(SUFFIXES)}; "
            "or name one with --format."
        )
    if ending is not None and form is not None and ending != form:
        raise UsageError(f"-o {output} is a {ending} file by its ending, but --format says {form}. Give one of them.")
    if not output.absolute().parent.is_dir():
        raise NotFoundError(f"-o {output}: the folder {output.absolute().parent} does not exist.")
    return ending or form or "table"


def emit(
    rows: Rows,
    form: str | None,
    output: Path | None,
    layout: Layout | None = None,
    *,
    csv_safe: bool = False,
) -> None:
    """Write rows to `output`, whole, or to stdout if that is None; a table is the default there."""
    if output is not None:
        chosen = file_format(output, form)
        with replaced(output) as file:
            write(rows, chosen, file, Layout(whole=True), csv_safe=csv_safe)
        return
    if form == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is binary: name a file with -o FILE, or choose another --format.")
    write(rows, form or "table", sys.stdout.buffer, layout, csv_safe=csv_safe)
    sys.stdout.buffer.flush()


# -- JSON --------------------------------------------------------------------------------------------------------------


def _objects(rows: Rows) -> Iterator[str]:
    names = [json.dumps(name, ensure_ascii=False) + ": " for name in rows.column_names]
    for row in rows_of(rows):
        yield "{" + ", ".join(name + json_text(value) for name, value in zip(names, row, strict=True)) + "}"


def _write_json(rows: Rows, stream: BinaryIO) -> None:
    between = "["
    for text in _objects(rows):
        stream.write((between + text).encode())
        between = ", "
    stream.write(b"]\n" if between == ", " else b"[]\n")


# -- CSV ---------------------------------------------------------------------------------------------------------------


_EMPTY_TEXT = '""'


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a text begins that a spreadsheet would compute, full-width signs included."""


def _write_csv(rows: Rows, stream: BinaryIO, safe: bool) -> None:
    """Comma-separated text with a header; null is an empty field, empty text is `""`, nested values are JSON."""
    stream.write((",".join(_csv_field(name, safe) for name in rows.column_names) + "\n").encode())
    for row in rows_of(rows):
        line = ",".join(_csv_field(value, safe) for value in row)
        stream.write(f"{line or _EMPTY_TEXT}\n".encode())  # an empty line is no row to those who read it


def _csv_field(value: Cell, safe: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return json_text(value).strip('"')
    if isinstance(value, list | dict):
        return _csv_text(json_text(value))
    if isinstance(value, str):
        return _csv_text(f"'{value}" if safe and value.startswith(_FORMULA) else value)
    return json_text(value)


def _csv_text(text: str) -> str:
    # Also what only some readers take for the end of a line.
    bare = text and text == text.strip() and text.isprintable() and not any(mark in text for mark in ',"')
    return text if bare else '"' + text.replace('"', '""') + '"'
