"""Analyses in a lake: committing the rows of one, and taking one out. Stands above `Lake`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from .derived import Analysis, stored_analyses
from .errors import NotFoundError, did_you_mean
from .lake import Lake
from .layout import DERIVED_WRITER
from .storage.store import explained
from .values import JsonView


@dataclass(frozen=True)
class AnalysisRemoval:
    """What removing an analysis did, or would do."""

    run_id: str
    analysis_id: str
    dry_run: bool
    now: bool
    files: int
    bytes: int

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def commit_analysis(
    lake: Lake,
    analysis: Analysis,
    tables: Mapping[str, Mapping[str, object]],
    vectors: Sequence[JsonView] = (),
    blobs: Mapping[str, bytes] | None = None,
    *,
    replace: bool = True,
    partial: bool = False,
) -> None:
    """Write the rows and blobs of an analysis in one commit; `replace` takes out older answers to the same question.

    `partial` commits are several of one analysis: what it has committed before stays.
    `tables` are columns by table as `SegmentWriter.append` takes them; `vectors` are calls of `append_vectors`.
    """
    about = {
        "analysis_id": analysis.analysis_id,
        "name": analysis.name,
        "question": analysis.question,
        "parameters": dict(analysis.parameters),
        "snapshot": analysis.snapshot,
    }
    with lake.resume_run(analysis.run_id, writer=DERIVED_WRITER) as run:
        same = {r.analysis["analysis_id"] for r in run.derived if r.analysis["question"] == analysis.question}
        if partial:
            same.discard(analysis.analysis_id)
        with run.derive(about, sorted(same) if replace else []) as writer:
            for table, columns in tables.items():
                writer.append(table, columns)
            for call in vectors:
                writer.append_vectors(**call)
            for name, data in (blobs or {}).items():
                writer.add_blob(name, data)


def remove_analysis(lake: Lake, analysis_id: str, *, dry_run: bool = True, now: bool = False) -> AnalysisRemoval:
    """Take an analysis out: its rows leave at once; its bytes leave with `vacuum`, or at once if `now`."""
    logs = {
        stored: log
        for log in lake.snapshot().runs.values()
        if not log.removed
        for stored in stored_analyses(log)
    }  # fmt: skip
    if analysis_id not in logs:
        raise NotFoundError(f"There is no analysis {analysis_id!r}.{did_you_mean(analysis_id, logs)}")
    log = logs[analysis_id]
    paths = [path for r in log.derived if r.analysis["analysis_id"] == analysis_id for path in r.paths]
    if not dry_run:
        with lake.resume_run(log.run_id, writer=DERIVED_WRITER) as run:
            run.withdraw(analysis_id)
            if now:
                with explained(f"removing analysis {analysis_id}"):
                    lake.store.remove(path for path, _ in paths)
    return AnalysisRemoval(log.run_id, analysis_id, dry_run, now, len(paths), sum(size for _, size in paths))
