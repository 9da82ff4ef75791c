"""CSV: one line of text per row unless a text has line breaks, which are quoted, and safe for spreadsheets if asked."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a text begins that a spreadsheet would compute, full-width signs included."""


def csv_text(rows: pa.Table, *, safe: bool = False, nested: Any = str) -> str:
    """Comma-separated text with a header; `nested` writes lists and structs, because CSV has none.

    `safe` puts an apostrophe before texts that a spreadsheet would take for a formula; numbers stay as they are.
    """
    lines = [_line(rows.column_names, safe, nested)]
    columns = [column.to_pylist() for column in rows.columns]
    lines += [_line(row, safe, nested) for row in zip(*columns, strict=True)]
    return "".join(lines)


def _line(values: Iterable[Any], safe: bool, nested: Any) -> str:
    fields = [_field(value, safe, nested) for value in values]
    return (",".join(fields) if fields != [""] else '""') + "\n"  # an empty line is no row to those who read it


def _field(value: Any, safe: bool, nested: Any) -> str:
    if value is None:
        return ""
    text = nested(value) if isinstance(value, (list, dict)) else str(value)
    if safe and not isinstance(value, (int, float)) and text.startswith(_FORMULA):
        text = f"'{text}"
    # Also what only some readers take for the end of a line.
    plain = not set('",') & set(text) and text.isprintable() and text == text.strip()
    return text if plain and text else f'"{text.replace(chr(34), chr(34) * 2)}"'
