"""Taking a run out of a lake: hidden at once by its tombstone, its files moved to the trash or deleted."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from secrets import token_hex

from .. import layout
from ..errors import LakeError, LockedError
from ..layout import DATA, LOCKS, STAGING, TRASH
from ..records.run_json import read_run_json
from ..records.tombstone import bury
from ..storage.store import Entry, Store, explained, only_files
from .verify import run_files


@dataclass(frozen=True)
class Removal:
    """What `remove` did, or would do."""

    run_id: str
    dry_run: bool
    now: bool
    files: int
    bytes: int
    trash: str | None

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def remove(store: Store, run_id: str, *, dry_run: bool, now: bool) -> Removal:
    """Hide a run by its tombstone, then move its files to the trash, or delete them if `now`.

    Whatever stops it, the run is hidden already; vacuum takes the rest away.
    """
    with explained(f"removing run {run_id}"), leases(store, run_id):
        records = list(only_files(store.walk(layout.run_folder(run_id))))  # refused before anything is done
        files = list(only_files(run_files(store, run_id)))
        if now:
            files += only_files(_buried(store, run_id))
        trash = None if now else f"{TRASH}/{_stamp()}-rm-{run_id}"
        if not dry_run:
            if not store.exists(layout.tombstone(run_id)):
                bury(store, run_id, _digest(store, run_id), f"{STAGING}/tombstone-{token_hex(4)}.part")
            _clear(store, files, trash)
            if now:
                forget(store, run_id, records)
    return Removal(run_id, dry_run, now, len(files), sum(entry.size for entry in files), trash)


@contextmanager
def leases(store: Store, run_id: str) -> Iterator[None]:
    """The leases of all writers that a run has had, so that none writes meanwhile; LockedError if one does."""
    with ExitStack() as stack:
        names = [name for name in store.names(LOCKS) if name.startswith(f"{run_id}.") and name.endswith(".lock")]
        for name in names:
            lease = store.lease(f"{LOCKS}/{name}", patience_s=0)
            if lease is None:
                writer = name.split(".")[1]
                raise LockedError(f"Run {run_id} is being written by {writer}. Stop it first, then try again.")
            stack.callback(lease.release)
        yield


def forget(store: Store, run_id: str, records: Iterable[Entry]) -> None:
    """Delete the records of a buried run but its tombstone, and its drafts; run.json, which may hold prompts, first."""
    kept, first = layout.tombstone(run_id), layout.run_json(run_id)
    drafts = [entry.name for entry in only_files(store.walk(f"{STAGING}/{run_id}"))]
    store.remove([first])
    store.remove([*(entry.name for entry in records if entry.name not in (kept, first)), *drafts])


def _digest(store: Store, run_id: str) -> str:
    """Of run.json; empty if it cannot be read, which must not keep a run from being removed."""
    try:
        return read_run_json(store, run_id)[1]
    except LakeError:
        return ""


def _buried(store: Store, run_id: str) -> Iterator[Entry]:
    for folder in store.names(TRASH):
        if folder.endswith(f"-rm-{run_id}"):
            yield from store.walk(f"{TRASH}/{folder}")


def _clear(store: Store, files: Iterable[Entry], trash: str | None) -> None:
    """Move files to the trash under names that no glob takes for Parquet, or delete them; then drop empty folders."""
    names = [entry.name for entry in files]
    if trash is not None:
        store.place([(name, f"{trash}/{name.removeprefix(f'{DATA}/')}.trash") for name in names])
    store.remove(names)


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
