"""Values of a result as JSON."""

import json
import math
from decimal import Decimal

from .rows import Cell


def json_text(value: Cell) -> str:
    """A value as JSON: decimals as numbers with all their digits; NaN and infinities, which JSON lacks, as text."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, float) and not math.isfinite(value):
        return '"NaN"' if value != value else '"Infinity"' if value > 0 else '"-Infinity"'
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):  # something inside is one of the above
        if isinstance(value, dict):
            return (
                "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {json_text(v)}" for k, v in value.items()) + "}"
            )
        assert isinstance(value, list)
        return "[" + ", ".join(map(json_text, value)) + "]"
