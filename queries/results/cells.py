"""Values of a result as plain Python: numbers, text, lists and objects that JSON, CSV and a table can write.

What has no kind of its own there becomes text: times and dates in ISO 8601 (`2026-11-26 08:30:00.5+00:00`, and
`infinity`), intervals as ISO durations (`P1M2DT3.5S`), binary as `\\x` and hexadecimal digits. Decimals stay exact.
"""

from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from .rows import Cell

_EXTREMES = {64: np.iinfo(np.int64).max, 32: np.iinfo(np.int32).max}
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def cells(column: pa.ChunkedArray | pa.Array) -> list[Cell]:
    """The values of a column."""
    if _is_simple(column.type):
        return column.to_pylist()
    return [cell(scalar) for scalar in column]


def _is_simple(kind: pa.DataType) -> bool:
    """Whether Arrow's own conversion is what we want, which is much faster."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_simple(kind.value_type)
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_null(kind)
    )


def cell(scalar: Any) -> Cell:
    """One Arrow value."""
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pa.types.is_dictionary(kind):
        return scalar.as_py()
    if pa.types.is_decimal(kind):
        value = scalar.as_py()
        return int(value) if kind.scale == 0 else value
    if pa.types.is_timestamp(kind):
        return timestamp_text(scalar.value, kind.unit, kind.tz)
    if pa.types.is_date(kind):
        return date_text(scalar)
    if pa.types.is_time(kind):
        return _time_text(scalar.value, kind.unit)
    if pa.types.is_duration(kind):
        return duration_text(0, 0, scalar.value * (1_000_000_000 // _UNITS[kind.unit]))
    if pa.types.is_interval(kind):
        months, days, nanoseconds = scalar.as_py()
        return duration_text(months, days, nanoseconds)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "\\x" + scalar.as_py().hex()
    return _nested(scalar)


def _nested(scalar: Any) -> Cell:
    kind = scalar.type
    if pa.types.is_map(kind):
        entries = scalar.values  # structs of key and value
        return {str(cell(key)): cell(value) for key, value in zip(entries.field(0), entries.field(1), strict=True)}
    if pa.types.is_struct(kind):
        return {name: cell(scalar[index]) for index, name in enumerate(field.name for field in kind)}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return cells(scalar.values)
    value = scalar.as_py()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def timestamp_text(value: int, unit: str, zone: str | None) -> str:
    """A count of units since 1970 as text; years that Python's own times cannot hold too."""
    if abs(value) == _EXTREMES[64]:
        return "infinity" if value > 0 else "-infinity"
    moment = np.datetime64(value, unit)  # pyright: ignore[reportArgumentType, reportCallIssue]
    offset = ""
    if zone is not None:
        moment, offset = _local(moment, zone)
    text = _four_digits(str(moment)).replace("T", " ")
    whole, point, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return whole + (point + fraction if fraction else "") + offset


def _local(moment: np.datetime64, zone: str) -> tuple[np.datetime64, str]:
    """The wall-clock time of a zone and its offset; UTC where the calendar of zones does not reach."""
    seconds = moment.astype("datetime64[s]")
    if np.datetime64("0002-01-01") <= seconds < np.datetime64("9999-01-01") and zone not in ("UTC", "Etc/UTC"):
        offset = seconds.item().replace(tzinfo=ZoneInfo("UTC")).astimezone(ZoneInfo(zone)).utcoffset()
        minutes = int(offset.total_seconds()) // 60
        sign = "-" if minutes < 0 else "+"
        shifted = moment + np.timedelta64(int(offset.total_seconds()), "s")
        return shifted, f"{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    return moment, "+00:00"


def date_text(scalar: Any) -> str:
    """A date as ISO text, or infinity."""
    if pa.types.is_date32(scalar.type):
        if abs(scalar.value) == _EXTREMES[32]:
            return "infinity" if scalar.value > 0 else "-infinity"
        return _four_digits(str(np.datetime64(scalar.value, "D")))
    return _four_digits(str(np.datetime64(scalar.value, "ms").astype("datetime64[D]")))


def _four_digits(text: str) -> str:
    """numpy writes the year -43 as -043; ISO 8601 has four digits beside the sign."""
    if not text.startswith("-"):
        return text
    year, dash, rest = text[1:].partition("-")
    return f"-{year:>04}{dash}{rest}"


def _time_text(value: int, unit: str) -> str:
    seconds, rest = divmod(value, _UNITS[unit])
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    digits = f"{rest:0{len(str(_UNITS[unit])) - 1}d}".rstrip("0") if rest else ""
    return f"{text}.{digits}" if digits else text


def duration_text(months: int, days: int, nanoseconds: int) -> str:
    """An interval as an ISO 8601 duration: months, days and seconds are kept apart, as DuckDB keeps them."""
    text = (f"{months}M" if months else "") + (f"{days}D" if days else "")
    if nanoseconds:
        seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
        digits = f"{rest:09d}".rstrip("0")
        sign = "-" if nanoseconds < 0 else ""
        text += f"T{sign}{seconds}{'.' + digits if digits else ''}S"
    return f"P{text or 'T0S'}"
