"""Rows of several tables, collected one by one and written to a segment as columns."""

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..schema import TABLES
from ..values import JsonView

if TYPE_CHECKING:
    from ..writing.segments import SegmentWriter

FLUSH_ROWS = 200_000
METRIC_COLUMNS = ("sequence_id", "step", "layer", "name", "value", "reason")
_F32_MAX = float(np.finfo(np.float32).max)


class ImportedRows:
    """Rows that wait to be written; a missing column is null."""

    def __init__(self, segment: "SegmentWriter | None") -> None:
        self._segment = segment
        self._rows: dict[str, list[JsonView]] = {}
        self._columns: list[tuple[str, JsonView]] = []
        self._metrics: list[tuple[Any, ...]] = []
        self._n_rows = 0

    def add(self, table: str, row: JsonView) -> None:
        """Add one row; it is kept, not copied."""
        self._rows.setdefault(table, []).append(row)
        self._n_rows += 1

    def extend(self, table: str, columns: JsonView, n_rows: int) -> None:
        """Add many rows as lists, one per column, or single values for all rows."""
        if n_rows:
            self._columns.append((table, columns))
            self._n_rows += n_rows

    def metric(self, *row: Any) -> None:
        """Add a row of `imported_metrics`, the values in the order of `METRIC_COLUMNS`: there are many."""
        self._metrics.append(row)
        self._n_rows += 1

    def flush(self, *, least: int = 0) -> None:
        """Write what waits, if it is at least so many rows; without a segment, forget it."""
        if self._n_rows < least:
            return
        for table, rows in self._rows.items():
            schema = TABLES[table].schema
            given = {name for row in rows for name in row}
            columns = {
                name: pa.array([row.get(name) for row in rows], schema.field(name).type)
                for name in schema.names
                if name in given
            }
            self._append(table, columns)
        for table, columns in self._columns:
            self._append(table, columns)
        if self._metrics:
            self._append(
                "imported_metrics", dict(zip(METRIC_COLUMNS, map(list, zip(*self._metrics, strict=True)), strict=True))
            )
        self._rows, self._columns, self._metrics, self._n_rows = {}, [], [], 0

    def _append(self, table: str, columns: JsonView) -> None:
        if self._segment is not None:
            self._segment.append(table, columns)


class Metrics:
    """Rows of `imported_metrics` of one sequence, and the null that goes with a reason."""

    def __init__(self, rows: ImportedRows, sequence_id: int) -> None:
        self._rows, self._sequence_id = rows, sequence_id

    def add(self, name: str, value: float | bool | None, *, step: int | None = None, layer: int | None = None) -> None:
        """One value; nothing if the report has none, null with a reason if it is not finite."""
        if value is None:
            return
        number, reason = finite(float(value))
        self._write(name, number, reason, step, layer)

    def missing(self, name: str, reason: str, *, step: int | None = None, layer: int | None = None) -> None:
        """A value that cannot be known, and why."""
        self._write(name, None, reason, step, layer)

    def column(self, name: str, value: float | None, *, step: int | None, layer: int | None = None) -> float | None:
        """A value for an observation column (float32): null where it is not finite, with the reason noted here."""
        if value is None:
            return None
        number, reason = finite(float(value))
        if number is not None and abs(number) > _F32_MAX:
            number, reason = None, f"the source has {value!r}, more than a float32 holds"
        if reason is not None:
            self._write(name, None, reason, step, layer)
        return number

    def _write(self, name: str, value: float | None, reason: str | None, step: int | None, layer: int | None) -> None:
        self._rows.metric(self._sequence_id, step, layer, name, value, reason)


def finite(value: float) -> tuple[float | None, str | None]:
    """The value, or null and why; -0.0 becomes 0."""
    if isfinite(value):
        return value + 0.0, None
    return None, f"the source has {'NaN' if value != value else 'infinity'}"


def jsonable(value: Any) -> Any:
    """The value without NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    return [jsonable(item) for item in value] if isinstance(value, list) else value
