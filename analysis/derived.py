"""Read, compute, write once: the frame that every analysis runs in."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..lake import Lake
from ..lake.analyses import commit_analysis
from ..lake.derived import Analysis, analysis_row, stored_analyses
from ..lake.snapshot import Snapshot

Columns = Mapping[str, Any]


@dataclass
class Rows:
    """What an analysis computed: columns by table, how many sequences it saw, what a reader must know."""

    tables: Mapping[str, Columns]
    n_sequences: int
    notices: list[str] = field(default_factory=list)
    other_run_id: str | None = None


@dataclass(frozen=True)
class Derived:
    """An analysis that is in the lake: found there, or computed now."""

    run_id: str
    analysis_id: str
    name: str
    parameters: dict[str, Any]
    computed: bool
    n_rows: dict[str, int]
    seconds: float
    notices: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(vars(self)) | {"seconds": round(self.seconds, 3), "notices": list(self.notices)}


def derive(
    lake: Lake, snapshot: Snapshot, analysis: Analysis, compute: Callable[[Snapshot], Rows], *, force: bool = False
) -> Derived:
    """The analysis from the lake if it is there, else computed and written in one commit. `force` computes again."""
    started = time.perf_counter()
    found = stored_analyses(snapshot.runs[analysis.run_id]).get(analysis.analysis_id)
    if found is not None and not force:
        notices = _notices(lake, analysis)
        seconds = time.perf_counter() - started
        return Derived(
            analysis.run_id, analysis.analysis_id, analysis.name, dict(analysis.parameters), False, found.n_rows,
            seconds, notices,
        )  # fmt: skip
    rows = compute(snapshot)
    about = analysis_row(analysis, rows.n_sequences, rows.notices, rows.other_run_id)
    tables = {name: columns for name, columns in rows.tables.items() if _length(columns)}
    commit_analysis(lake, analysis, {"analyses": about, **_named(tables, analysis.analysis_id)})
    counts = {name: _length(columns) for name, columns in tables.items()} | {"analyses": 1}
    return Derived(
        analysis.run_id, analysis.analysis_id, analysis.name, dict(analysis.parameters), True, counts,
        time.perf_counter() - started, tuple(rows.notices),
    )  # fmt: skip


def _notices(lake: Lake, analysis: Analysis) -> tuple[str, ...]:
    import polars as pl

    rows = lake.scan("analyses", analysis.run_id).filter(pl.col("analysis_id") == analysis.analysis_id).collect()
    text = rows["notices"][0] if rows.height else None
    return (text,) if text else ()


def _named(tables: Mapping[str, Columns], analysis_id: str) -> dict[str, Columns]:
    return {name: {**columns, "analysis_id": analysis_id} for name, columns in tables.items()}


def _length(columns: Columns) -> int:
    """Rows: the length of the first array among the columns; scalars are repeated."""
    return next((len(v) for v in columns.values() if hasattr(v, "__len__") and not isinstance(v, str)), 0)
