"""Rows as text for people: a table fitted to a terminal, or one line per value where a table does not fit.

A value stands bare where it cannot be mistaken. Null is `·`; text that is empty, begins or ends with a blank, begins
with a quotation mark, equals `·` or holds control characters is written as JSON text in quotation marks.
"""

import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ...lake.output.printable import printable
from .rows import Cell, Rows, first_rows, numeric_columns, rows_of

CELL_WIDTH = 120
"""Characters of one value; a file's are whole."""
TABLE_ROWS = 200
NARROWEST = 8
NULL = "·"
_GAP = "  "


@dataclass(frozen=True)
class Layout:
    """How much of the rows is shown, in what shape. `whole` cuts nothing."""

    width: int | None = None
    vertical: bool = False
    whole: bool = False
    most_rows: int = TABLE_ROWS


def table_text(rows: Rows, layout: Layout) -> str:
    """The rows as text that ends in a newline."""
    names = [printable(name) for name in rows.column_names]
    numeric = numeric_columns(rows)
    taken = rows_of(rows) if layout.whole else first_rows(rows, layout.most_rows)
    shown = [[shown_cell(value, whole=layout.whole) for value in row] for row in taken]
    widths = [max(map(_width, column)) for column in zip(names, *shown, strict=True)]
    fitted = widths if layout.width is None else _fitted(widths, layout.width)
    if layout.vertical or fitted is None:
        lines = _vertical(names, shown, layout)
    else:
        lines = _lines(names, shown, fitted, numeric)
    if rows.num_rows > len(shown):
        more = rows.num_rows - len(shown)
        lines.append(f"... {more:,} more rows; -o FILE writes all of them, --format csv or json prints them.")
    return "".join(f"{line}\n" for line in lines)


def shown_cell(value: Cell, *, whole: bool = False) -> str:
    """One value on one line, nothing in it that could be taken for another value."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value, whole=whole)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, list | dict):
        return _nested(value, whole=whole)
    text = _bare_or_quoted(value) if isinstance(value, str) else str(value)
    return text if whole else _cut(text, CELL_WIDTH)


def _float(value: float, *, whole: bool) -> str:
    if not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return repr(value) if whole else f"{value:.4g}"


def _bare_or_quoted(text: str) -> str:
    if text and text == text.strip() and not text.startswith('"') and text != NULL and printable(text) == text:
        return text
    return printable(json.dumps(text, ensure_ascii=False))


def _nested(value: list[Cell] | dict[str, Cell], *, whole: bool) -> str:
    def inner(item: Cell) -> str:
        if isinstance(item, str):
            return printable(json.dumps(item, ensure_ascii=False))
        return "null" if item is None else shown_cell(item, whole=whole)

    if isinstance(value, dict):
        text = "{" + ", ".join(f"{printable(json.dumps(k, ensure_ascii=False))}: {inner(v)}" for k, v in value.items())
        text += "}"
    elif len(value) > 6 and not whole:
        text = f"[{', '.join(map(inner, value[:4]))}, ... {len(value)}]"
    else:
        text = f"[{', '.join(map(inner, value))}]"
    return text if whole else _cut(text, CELL_WIDTH)


def _fitted(widths: Sequence[int], room: int) -> list[int] | None:
    """Widths that fit a terminal, the widest columns cut; None where even narrow columns do not fit."""
    room -= len(_GAP) * (len(widths) - 1)
    if sum(widths) <= room:
        return list(widths)
    cap = max(widths, default=0)
    while cap > NARROWEST and sum(min(width, cap) for width in widths) > room:
        cap -= 1
    fitted = [min(width, cap) for width in widths]
    return fitted if sum(fitted) <= room else None


def _lines(
    names: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int], numeric: Sequence[bool]
) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        padded = [
            _padded(_cut(cell, width), width, right=right)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        return _GAP.join(padded).rstrip()

    return [line(names), *map(line, rows)]


def _vertical(names: Sequence[str], rows: Sequence[Sequence[str]], layout: Layout) -> list[str]:
    """Each row as lines of `name  value`, for rows with many or long values."""
    margin = max(map(_width, names), default=0)
    lines = []
    for number, row in enumerate(rows, start=1):
        lines.append(f"-- row {number} --")
        for name, cell in zip(names, row, strict=True):
            room = None if layout.width is None else max(NARROWEST, layout.width - margin - len(_GAP))
            lines.append(_padded(name, margin) + _GAP + (cell if room is None else _cut(cell, room)))
    return lines


def _padded(text: str, width: int, *, right: bool = False) -> str:
    blanks = " " * max(0, width - _width(text))
    return blanks + text if right else text + blanks


def _width(text: str) -> int:
    """Terminal columns of a text: two for wide characters, none for marks that join the one before."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    """The text in at most `width` columns, `…` in place of its end."""
    if len(text) <= width and _width(text) <= width:
        return text
    kept, room = "", width - 1
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept += character
    return kept + "…"
