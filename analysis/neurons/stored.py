"""Which stored passes over a run an analysis of neurons reads."""

from ...lake.derived import StoredAnalysis, stored_analyses
from ...lake.errors import NotFoundError, did_you_mean
from ...lake.snapshot import Snapshot


def whole_analyses(snapshot: Snapshot, name: str) -> list[StoredAnalysis]:
    """The completed analyses of this name of the (only) run, oldest first."""
    run_id = next(iter(snapshot.runs))
    stored = [one for one in stored_analyses(snapshot.runs[run_id]).values() if one.name == name]
    return [one for one in stored if one.n_rows.get("analyses")]


def whole_analysis(snapshot: Snapshot, name: str, wanted: str | None, command: str) -> str:
    """The id that is wanted, or the newest; NotFoundError that names the command that makes one."""
    run_id = next(iter(snapshot.runs))
    whole = [one.analysis_id for one in whole_analyses(snapshot, name)]
    if not whole:
        raise NotFoundError(f"Run {run_id} has no rows of `{command}`. Make them: {command} {run_id}")
    if wanted is not None and wanted not in whole:
        raise NotFoundError(f"Run {run_id} has no {name} {wanted!r}.{did_you_mean(wanted, whole)}")
    return wanted or whole[-1]
