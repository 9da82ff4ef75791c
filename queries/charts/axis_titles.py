"""Words of a chart: axis titles with units from the schema, and token text made safe and visible to draw."""

import functools
import math
import re
import textwrap
from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal

from ...lake.output.printable import escape, is_printable
from ...lake.schema import TABLES

_UNIT_SUFFIXES = {"bits": "bits", "nats": "nats", "ms": "ms", "s": "s"}
_STATISTICS = ("mean", "median", "total", "min", "max", "first", "next", "other")
_SPELLINGS = {"l2": "L2", "cos": "cosine", "attn": "attention", "prev": "previous", "prob": "probability", "id": "id"}
_NO_UNIT = ("probability", "UTC")
_WHITE = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"}


@functools.cache
def _units() -> dict[str, str]:
    """Units of the schema's columns, where every table that has the column agrees."""
    found: dict[str, set[str | None]] = {}
    for table in TABLES.values():
        for column in table.columns:
            found.setdefault(column.name, set()).add(column.unit)
    return {name: unit for name, units in found.items() if len(units) == 1 and (unit := next(iter(units)))}


def axis_title(field: str) -> str:
    """`mean_surprisal_bits` -> `mean surprisal (bits)`; the unit comes from the name or from the schema."""
    words = field.split("_")
    unit = _UNIT_SUFFIXES.get(words[-1]) if len(words) > 1 else None
    if unit:
        words = words[:-1]
    else:
        base = field
        while base not in _units() and base.split("_")[0] in _STATISTICS and "_" in base:
            base = base.split("_", 1)[1]
        unit = _units().get(base)
    name = " ".join(_SPELLINGS.get(word, word) for word in words)
    return f"{name} ({unit})" if unit and unit not in _NO_UNIT else name


def visible(text: str) -> str:
    """Token text as it can be drawn: white space as symbols, control and direction characters as escapes."""
    if text.isprintable() and not text.startswith(" ") and not text.endswith(" "):
        return text
    body = text.strip(" ")
    lead, tail = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" ")) if body else 0
    return _WHITE[" "] * lead + "".join(map(_drawn, body)) + _WHITE[" "] * tail


def _drawn(character: str) -> str:
    if character in _WHITE and character != " ":
        return _WHITE[character]
    return character if is_printable(character) else escape(character)


def plain(value: object) -> object:
    """A value as JSON can hold it: no NaN, no infinity, times as text, token text visible."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return visible(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, Decimal):  # what SQL makes of 1.5, and of sums
        return float(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return visible(str(value))


def category(value: object, *, as_text: bool = False) -> object:
    """A value as one of a chart's categories: what is missing or not finite is one too, and says so.

    `as_text` is for numbers beside such words: the categories of one axis are of one kind.
    """
    if value is None:
        return "(null)"
    if isinstance(value, float) and not math.isfinite(value):
        return "(NaN)" if value != value else "(Infinity)" if value > 0 else "(-Infinity)"
    return str(plain(value)) if as_text else plain(value)


def are_text(values: Iterable[object]) -> bool:
    """Whether numbers among these categories must be written as text."""
    return any(isinstance(category(value), str) for value in values)


def wrapped(text: str, width: int) -> str | list[str]:
    """Text for a title that must not be wider than so many characters: one line, or several."""
    lines = textwrap.wrap(text, width, break_long_words=True, break_on_hyphens=False)
    return lines if len(lines) > 1 else text


def is_plain(text: str) -> bool:
    """Whether a value may stand in a subtitle: an id, a tag or a number, nothing that could be prose or code."""
    return re.fullmatch(r"[A-Za-z0-9_.:+-]{1,64}", text) is not None
