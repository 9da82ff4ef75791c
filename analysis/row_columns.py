"""Columns from rows."""

import math
from collections.abc import Sequence
from typing import Any

from ..lake.values import JsonView


def columns_of(rows: Sequence[JsonView]) -> dict[str, list[Any]]:
    """Columns of all names that any row has; NaN is null, and so is what a row lacks."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_or_null(row.get(name)) for row in rows] for name in names}


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
