"""The columns of a query's result: names that occur once, and types that every reader of the rows has."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .quoting import quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# Arrow carries their bytes or drops a part of them (the zone of a time); DuckDB's own text is exact.
_ONLY_IN_DUCKDB = {"bit", "bignum", "union", "variant", "time with time zone"}

_DAY = 86_400
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 and 9999, counted from 1970


class RenamedColumnWarning(UserWarning):
    """Columns of one name in a result: all but the first have got another one."""


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, each once: the second `a` becomes `a_1`, as in a subquery. SQL does not tell `a` from `A`."""
    taken = {name.lower() for name in names}
    seen: set[str] = set()
    unique = []
    for name in names:
        if name.lower() in seen:
            number = 1
            while f"{name}_{number}".lower() in taken:
                number += 1
            name = f"{name}_{number}"
            taken.add(name.lower())
        seen.add(name.lower())
        unique.append(name)
    return unique


def readable(relation: "duckdb.DuckDBPyRelation") -> "duckdb.DuckDBPyRelation":
    """The relation with unique names (a RenamedColumnWarning says which changed) and no type that is DuckDB's alone."""
    names = unique_names(relation.columns)
    columns = [_column(number, kind) for number, kind in enumerate(relation.types, start=1)]
    renamed = [f"{old} -> {new}" for old, new in zip(relation.columns, names, strict=True) if old != new]
    if not renamed and all(column.startswith("#") for column in columns):
        return relation
    if renamed:
        text = f"Columns of one name in the result; the later ones are renamed: {', '.join(renamed)}."
        warnings.warn(text, RenamedColumnWarning, stacklevel=5)
    return relation.project(
        ", ".join(f"{column} AS {quoted(name)}" for column, name in zip(columns, names, strict=True))
    )


def _column(number: int, kind: Any) -> str:
    if kind.id in _ONLY_IN_DUCKDB:
        return f"(#{number})::VARCHAR"
    return f"to_json(#{number})" if _holds_foreign(kind) else f"#{number}"


def _holds_foreign(kind: Any) -> bool:
    if kind.id not in ("list", "array", "struct", "map"):
        return False
    inner = [child for _, child in kind.children if hasattr(child, "id")]  # an array has its size among them
    return any(child.id in _ONLY_IN_DUCKDB or _holds_foreign(child) for child in inner)


def for_polars(rows: "pa.Table") -> "pa.Table":
    """The rows with intervals as durations; UsageError where a value has no place in a polars frame."""
    import pyarrow as pa

    for index, field in enumerate(rows.schema):
        if pa.types.is_interval(field.type):
            rows = rows.set_column(index, field.name, _durations(rows.column(index), field.name))
        elif pa.types.is_timestamp(field.type) or pa.types.is_date32(field.type):
            _check_years(rows.column(index), field.name)
    return rows


def _check_years(column: "pa.ChunkedArray", name: str) -> None:
    """Infinity and years outside 1 to 9999, which Python's times cannot hold: polars would panic much later."""
    if len(column) == column.null_count:
        return
    import pyarrow as pa
    import pyarrow.compute as pc  # a twentieth of a second: not for every statement

    kind = column.type
    if pa.types.is_timestamp(kind):
        factor = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[kind.unit]
        lowest, highest = _FIRST_SECOND * factor, _LAST_SECOND * factor
    else:
        lowest, highest = _FIRST_SECOND // _DAY, _LAST_SECOND // _DAY
    ends = pc.call_function("min_max", [column.cast(pa.int64() if pa.types.is_timestamp(kind) else pa.int32())])
    if ends["min"].as_py() < lowest or ends["max"].as_py() > highest:
        raise UsageError(
            f"Column {name!r} holds infinity or a year outside 1 to 9999, which a polars frame cannot show. "
            f"Leave it out with isfinite({name}), or write {name}::VARCHAR."
        )


def _durations(column: "pa.ChunkedArray", name: str) -> "pa.Array":
    import pyarrow as pa

    intervals = column.to_pylist()
    if any(value is not None and value.months for value in intervals):
        raise UsageError(
            f"Column {name!r} is an interval of months, which have no fixed length, so a polars frame cannot hold it. "
            f"Write {name}::VARCHAR for its text, or datediff('day', ...) for days."
        )
    microseconds = _DAY * 1_000_000
    values = [None if v is None else v.days * microseconds + v.nanoseconds // 1_000 for v in intervals]
    return pa.array(values, pa.duration("us"))
