"""The tables that runs of one configuration are compared in."""

from tracelake.lake import Lake
from tracelake.lake.schema import stored_tables
from tracelake.lake.tables.table import Table

TIMINGS = "operations"


def compared_tables(*lakes: Lake) -> list[Table]:
    """All that at least one of the lakes has files of, timings aside; the others are empty in each of them."""
    snapshots = [lake.snapshot() for lake in lakes]
    return [
        table
        for table in stored_tables()
        if table.name != TIMINGS and any(snapshot.files(table.name) for snapshot in snapshots)
    ]
