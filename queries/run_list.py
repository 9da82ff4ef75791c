"""The runs of a lake as they are listed, newest first: to read without DuckDB and Arrow, or with their types."""

from datetime import datetime
from typing import TYPE_CHECKING

from ..lake.sql.plain_rows import PlainRows

if TYPE_CHECKING:
    import pyarrow as pa

    from .queried_lake import QueriedLake

COLUMNS = (
    "run_id", "tag", "kind", "status", "model", "n_sequences", "n_tokens", "created_at", "finished_at", "error",
)  # fmt: skip
"""Of the table `runs`."""


def run_list(lake: "QueriedLake") -> PlainRows:
    """Every run; times are text in the zone of the machine."""
    rows = sorted(lake.run_rows(), key=lambda row: (_moment(row["created_at"]), row["run_id"]), reverse=True)
    values = [
        tuple(
            _moment_text(value) if isinstance(value, datetime) else value for value in (row[name] for name in COLUMNS)
        )
        for row in rows
    ]
    return PlainRows(list(COLUMNS), [name in ("n_sequences", "n_tokens") for name in COLUMNS], values)


def typed_run_list(lake: "QueriedLake") -> "pa.Table":
    """The same rows as an Arrow table."""
    return lake.arrow(f"select {', '.join(COLUMNS)} from runs order by created_at desc, run_id desc")


def _moment(time: datetime | None) -> float:
    """Seconds since 1970; a run without a time comes last."""
    return float("-inf") if time is None else time.timestamp()


def _moment_text(time: datetime) -> str:
    """As SQL's answers show a moment: the local time, no zeros at the end, and the zone's offset."""
    text = time.astimezone().isoformat(sep=" ", timespec="microseconds")
    whole, _, rest = text.partition(".")
    fraction, offset = rest[:6].rstrip("0"), rest[6:]
    return f"{whole}.{fraction}{offset}" if fraction else whole + offset
