"""A run made of other programs' records: its id, its run.json, and the refusal to import a record twice."""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from ..errors import LakeError, LockedError, UsageError
from ..layout import LOCKS
from ..snapshot import RunLog
from ..values import Json, JsonView

if TYPE_CHECKING:
    from ..lake import Lake
    from ..writing.writer import RunWriter


PATIENCE_S = 30.0


def import_json(source: Json, model: Json, *, tag: str | None, seed: int | None, segments: Sequence[list[int]]) -> Json:
    """run.json of an import. `source` has the format and the records' identities; `segments` the ranges of items."""
    return {
        "kind": "import",
        "tag": tag,
        "seed": seed,
        "model": model,
        "source": source,
        "plan": {"segments": list(segments)},
        "versions": {"python": platform.python_version(), "tracelake": version("tracelake")},
    }


@dataclass(frozen=True)
class ImportedRun:
    """What became of records that make one run; `already` if an earlier import had completed it."""

    run_id: str
    model: str
    n_sequences: int
    n_tokens: int
    already: bool = False


@contextmanager
def import_run(lake: "Lake", run_id: str, body: Json, *, again: bool) -> Iterator["RunWriter"]:
    """A run to write: complete when the block ends well, gone from the lake when it does not.

    Unless `again`, its records are claimed first: two imports of one file at the same moment do not both succeed.
    """
    with _starting(lake):
        if not again:
            _refuse_claimed(lake, body["source"])
        writer = lake.start_run(run_id, body)
    with writer:
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.close()
            with suppress(LakeError):  # on a failing disk the error that matters is the first
                lake.remove(run_id, dry_run=False, now=True)
            raise


@contextmanager
def _starting(lake: "Lake") -> Iterator[None]:
    """The moment between looking for records in the lake and starting their run, which one import has at a time."""
    lease = lake.store.lease(f"{LOCKS}/_imports.lock", patience_s=PATIENCE_S)
    if lease is None:
        raise LockedError("Another import is starting in this lake, for longer than it should. Try again.")
    try:
        yield
    finally:
        lease.release()


def _refuse_claimed(lake: "Lake", source: JsonView) -> None:
    names = {str(record["id"]): str(record["file"]) for record in source["records"]}
    check_new(names.items(), imported(lake, source["format"]))
    for log in _imports(lake, source["format"]):
        held = log.outcome is None and lake.run_status(log.run_id) == "running"
        if held and (shared := names.keys() & _identities(log)):
            raise LockedError(
                f"{names[min(shared)]} is being imported by another process, as run {log.run_id}. Wait for it to end."
            )


def imported(lake: "Lake", form: str) -> dict[str, str]:
    """Identities of the records of a format that the lake holds, each with its run; removed runs do not count."""
    complete = (log for log in _imports(lake, form) if log.outcome == "complete")
    return {identity: log.run_id for log in complete for identity in _identities(log)}


def _imports(lake: "Lake", form: str) -> list[RunLog]:
    logs = [log for log in lake.snapshot().runs.values() if not log.removed and log.run_json.get("kind") == "import"]
    return [log for log in logs if (log.run_json.get("source") or {}).get("format") == form]


def _identities(log: RunLog) -> list[str]:
    return [str(record.get("id")) for record in (log.run_json.get("source") or {}).get("records") or []]


def completed(lake: "Lake", run_ids: Iterable[str]) -> list[ImportedRun]:
    """What an earlier import of the same records left: asked for again, perhaps because nobody saw it end."""
    snapshot = lake.snapshot()
    logs = [snapshot.runs[run_id] for run_id in dict.fromkeys(run_ids)]
    return [
        ImportedRun(
            log.run_id, str((log.run_json.get("model") or {}).get("name")), log.counters.get("n_sequences", 0),
            log.counters.get("n_tokens", 0), already=True,
        )
        for log in logs
    ]  # fmt: skip


def check_new(identities: Iterable[tuple[str, str]], known: Mapping[str, str]) -> None:
    """UsageError if one of (identity, file) is in the lake already."""
    twice = [(identity, name) for identity, name in identities if identity in known]
    if twice:
        identity, name = twice[0]
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise UsageError(
            f"{name} ({identity}){more} was imported already, as run {known[identity]}. "
            "Leave it out, pass --new-only to import only the others, or --again to import it once more."
        )
