"""Passes over stored sequences: the work that is missing, in chunks, each committed when it is done.

What is interrupted goes on where it stopped, because what a sequence already has is read from the lake. Nothing here
knows a model: `stored_sequences` reads the sequences again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import polars as pl

from ..lake import Lake
from ..lake.analyses import commit_analysis
from ..lake.derived import Analysis, analysis_row, stored_analyses
from ..lake.errors import NotFoundError
from ..lake.reading.checked_files import checked_paths, committed_files
from ..lake.reading.frames import polars_schema
from ..lake.schema import TABLES
from ..lake.values import JsonView

Work = TypeVar("Work")

CHUNK_TOKENS = 16_384
"""Tokens between two commits: what an interruption can cost."""


@dataclass(frozen=True)
class ChunkRows:
    """What one chunk leaves: columns by table, and calls of `append_vectors`."""

    tables: Mapping[str, JsonView] = field(default_factory=dict)
    vectors: Sequence[JsonView] = ()


def commit_chunks(
    lake: Lake,
    analysis: Analysis,
    chunks: Sequence[Work],
    compute: Callable[[Work], ChunkRows],
    *,
    n_sequences: int,
    notices: Callable[[], Sequence[str]] = lambda: (),
    replace_older: bool = False,
    on_chunk: Callable[[int, Work], None] = lambda number, work: None,
) -> None:
    """Compute and commit chunk by chunk; the last commit has the row of `analyses`, which says that it is whole.

    `replace_older` takes out older answers to the same question, with that last commit.
    """
    for number, work in enumerate(chunks):
        rows = compute(work)
        tables, last = dict(rows.tables), number == len(chunks) - 1
        if last:
            tables["analyses"] = analysis_row(analysis, n_sequences, notices(), None)
        commit_analysis(lake, analysis, tables, rows.vectors, replace=last and replace_older, partial=True)
        on_chunk(number, work)


def is_whole(lake: Lake, analysis: Analysis) -> bool:
    """Whether a pass of exactly this question over exactly these files has been completed."""
    stored = stored_analyses(lake.snapshot(analysis.run_id).runs[analysis.run_id]).get(analysis.analysis_id)
    return stored is not None and stored.n_rows.get("analyses", 0) > 0


def rows_of(lake: Lake, run_id: str, table: str, only: Mapping[str, str], names: Sequence[str]) -> pl.LazyFrame:
    """Columns of the rows whose text columns have the values `only`; files that cannot have them stay shut."""
    snapshot = lake.snapshot(run_id)
    files = [file for file in committed_files(snapshot, table) if file.entry.may_hold(only)]
    if not files:
        return pl.LazyFrame(schema=polars_schema(TABLES[table])).select(names)
    scan = pl.scan_parquet(checked_paths(snapshot, files), hive_partitioning=False, glob=False)
    return scan.filter(pl.col(name) == value for name, value in only.items()).select(names)


def sequences_with_rows(lake: Lake, run_id: str, table: str, only: Mapping[str, str]) -> set[int]:
    """Sequences that a pass has been over: all rows of one are committed together."""
    return set(rows_of(lake, run_id, table, only, ["sequence_id"]).unique().collect()["sequence_id"].to_list())


def sequence_lengths(lake: Lake, run_id: str) -> dict[int, int]:
    """Tokens of every stored sequence by id, in the order of ids; NotFoundError if the run has none."""
    counts = lake.scan("token_steps", run_id).group_by("sequence_id").len().sort("sequence_id").collect()
    if not counts.height:
        raise NotFoundError(f"Run {run_id} has no tokens: there is nothing to read again.")
    return dict(zip(counts["sequence_id"].to_list(), counts["len"].to_list(), strict=True))


def chunks_of(lengths: Mapping[int, int], chunk_tokens: int = CHUNK_TOKENS) -> list[list[int]]:
    """Ids of the sequences in groups of about that many tokens, in order."""
    chunks: list[list[int]] = []
    n_tokens = chunk_tokens
    for sequence_id, length in lengths.items():
        if n_tokens >= chunk_tokens:
            chunks.append([])
            n_tokens = 0
        chunks[-1].append(sequence_id)
        n_tokens += length
    return chunks
