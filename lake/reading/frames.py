"""Committed files as polars frames, without DuckDB."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from ..snapshot import Snapshot
from ..tables.table import Table
from .checked_files import CheckedFiles, committed_files, whole_files


def polars_schema(table: Table) -> pl.Schema:
    """The polars types of a table's columns; vectors are binary."""
    empty = pl.from_arrow(pa.Table.from_batches([], table.schema))  # Arrow's `empty_table` would import pandas
    assert isinstance(empty, pl.DataFrame)
    return empty.schema


def scan_files(table: Table, snapshot: Snapshot) -> pl.LazyFrame:
    """A lazy scan of one table's committed files, checked before it begins, with every declared column.

    Of several runs, one with a damaged file is named and left out.
    """
    schema = polars_schema(table)
    files = list(whole_files(snapshot, committed_files(snapshot, table.name), CheckedFiles(snapshot.store)))
    if not files:
        return pl.LazyFrame(schema=schema)
    return pl.scan_parquet(
        snapshot.store.urls([file.entry.path for file in files]),
        schema=schema,
        missing_columns="insert",
        extra_columns="ignore",
        hive_partitioning=False,
        glob=False,
    )


def scan_runs(runs: pa.Table, run_ids: Sequence[str]) -> pl.LazyFrame:
    """The table `runs` of the given runs."""
    frame = pl.from_arrow(runs)
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy().filter(pl.col("run_id").is_in(list(run_ids)))
