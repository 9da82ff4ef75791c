"""The table of verdicts that people or other programs gave."""

from .key_columns import ANALYSIS, BOOL, RUN, SEQUENCE, TEXT, columns
from .table import Table

LABELS = Table(
    "labels",
    "One row per sequence and set of verdicts: what people or another program call right. Grades stay in `sequences`.",
    (RUN, SEQUENCE, ANALYSIS)
    + columns(
        ("prompt_id", TEXT, "The sequence's prompt: first 16 hex digits of SHA-256 over it as given.", None, True),
        ("correct", BOOL, "The verdict; null where there is none."),
        ("source_run_id", TEXT, "Run whose sequences the verdict comes from; null if it was given for this run."),
        ("label_reason", TEXT, "Why, in the words of whoever gave it."),
    ),
    key=("run_id", "sequence_id", "analysis_id"),
    kind="derived",
)
