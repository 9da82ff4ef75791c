"""The `runs` table: one row per run, derived from run.json, the commit records and the locks; and run resolution."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, cast

from . import layout
from .errors import LakeError, NotFoundError, UsageError, did_you_mean
from .layout import DERIVED_WRITER, LOCKS
from .records.run_json import MODEL_KEYS, RunJson, read_run_json
from .records.tombstone import check_tombstone
from .snapshot import RunLog, run_ids
from .storage.store import Store
from .tables.run_row import RunRow
from .tables.runs import RUNS
from .values import Row

if TYPE_CHECKING:
    import pyarrow as pa


def status(log: RunLog, store: Store) -> str:
    """running, complete, interrupted, failed or removed."""
    if log.removed:
        return "removed"
    if log.outcome == "complete":
        return "complete"
    if set(held_writers(store, log.run_id)) - {DERIVED_WRITER}:
        return "running"
    return log.outcome or "interrupted"


def held_writers(store: Store, run_id: str) -> list[str]:
    """Writers of a run whose leases are held now."""
    names = [name for name in store.names(LOCKS) if name.startswith(f"{run_id}.") and name.endswith(".lock")]
    return [name.split(".")[1] for name in names if store.held(f"{LOCKS}/{name}")]


def run_row(log: RunLog, store: Store) -> RunRow:
    """One row of `runs`."""
    given, completion, counters = log.run_json, log.completion, log.counters
    model = given.get("model") or {}
    row: Row = {
        "run_id": log.run_id,
        "tag": given.get("tag"),
        "kind": given.get("kind"),
        "status": status(log, store),
        "created_at": _time(given.get("created_at")),
        "finished_at": _time(completion.time) if completion and log.outcome else None,
        **{column: model.get(key) for column, key in MODEL_KEYS.items()},
        "seed": given.get("seed"),
        "config": _json(given.get("config")),
        "versions": _json(given.get("versions")),
        "n_sequences": counters.get("n_sequences", 0),
        "n_tokens": counters.get("n_tokens", 0),
        "error": completion.error if completion else None,
        **{f"experiment_{key}": (given.get("experiment") or {}).get(key) for key in ("id", "step")},
    }
    return cast(RunRow, {name: row[name] for name in RUNS.names})


def run_rows(logs: Iterable[RunLog], store: Store) -> list[RunRow]:
    """All rows of `runs`, oldest first."""
    return [run_row(log, store) for log in sorted(logs, key=created)]


def runs_table(rows: Sequence[RunRow]) -> "pa.Table":
    """Rows of `runs` as an Arrow table with the declared schema."""
    import pyarrow as pa

    return pa.Table.from_pylist([dict(row) for row in rows], schema=RUNS.schema)


def created(log: RunLog) -> tuple[str, str]:
    """Sort key: time of creation, then id."""
    return (str(log.run_json.get("created_at") or ""), log.run_id)


def known_runs(store: Store) -> tuple[list[tuple[str, str | None, bool]], dict[str, LakeError]]:
    """(id, tag, removed) of all runs, oldest first, and those whose run.json cannot be read, which have no tag."""
    known: list[tuple[str, str, str | None, bool]] = []
    damaged: dict[str, LakeError] = {}
    for run_id in run_ids(store):
        body: RunJson = {}
        removed = False
        try:
            body = read_run_json(store, run_id)[0]
            removed = store.exists(layout.tombstone(run_id))
            if removed:
                check_tombstone(store, run_id, body, None)
        except NotFoundError:
            continue  # removed for good between the listing and the look
        except LakeError as error:
            damaged[run_id], removed = error, False
        known.append((str(body.get("created_at") or ""), run_id, body.get("tag"), removed))
    return [(run_id, tag, removed) for _, run_id, tag, removed in sorted(known, key=lambda k: k[:2])], damaged


def resolve(text: str, runs: Sequence[tuple[str, str | None, bool]]) -> str:
    """The run that `text` means, among (id, tag, removed) oldest first: id, `latest`, tag or unique prefix."""
    if any(run_id == text and not removed for run_id, _, removed in runs):
        return text
    present = [(run_id, tag) for run_id, tag, removed in runs if not removed]
    if text == "latest" and present:
        return present[-1][0]
    for what, matches in (
        ("tag", [run_id for run_id, tag in present if tag == text]),
        ("prefix", [run_id for run_id, _ in present if text and run_id.startswith(text)]),
    ):
        if len(matches) > 1:
            raise UsageError(f"The {what} {text!r} means {len(matches)} runs: {', '.join(matches)}. Give one id.")
        if matches:
            return matches[0]
    if any(run_id == text for run_id, _, _ in runs):
        raise NotFoundError(f"Run {text!r} was removed.")
    names = [run_id for run_id, _ in present[::-1]] + [tag for _, tag in present if tag]
    raise NotFoundError(f"There is no run {text!r}.{did_you_mean(text, dict.fromkeys(names))}")


def _time(text: object) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
