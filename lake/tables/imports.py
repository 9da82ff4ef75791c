"""The table of what other programs' records say and no observation column holds."""

from .key_columns import F64, I32, RUN, SEQUENCE, TEXT, columns
from .table import Table

IMPORTED_METRICS = Table(
    "imported_metrics",
    "Values of imported reports that no observation column holds, one per row, with the reason where one is missing.",
    (RUN, SEQUENCE)
    + columns(
        ("step", I32, "0-based step; null for values of the whole sequence."),
        ("layer", I32, "Block index; null for values of no layer."),
        ("name", TEXT, "Name of the metric; docs/exchange.md says which field it comes from.", None, True),
        ("value", F64, "The value; null if it could not be known."),
        ("reason", TEXT, "Why the value is null."),
    ),
    key=("run_id", "sequence_id", "step", "layer", "name"),
)
