"""Damaged files: what a look at their ends tells, and which one has other bytes than committed."""

from collections.abc import Iterator

from ..errors import DamageError
from ..records.checksum import Checksum
from ..snapshot import Snapshot
from ..storage.store import Store


def damaged_files(snapshot: Snapshot, run: str | None) -> Iterator[tuple[str, str, str]]:
    """Committed files that are missing, have the wrong size or no Parquet ends: (path, run, what is wrong)."""
    for run_id, log in snapshot.runs.items():
        if log.removed or (run is not None and run_id != run):
            continue
        for entry in log.files:
            if why := visible_damage(snapshot.store, entry.path, entry.size):
                yield entry.path, run_id, why


def visible_damage(store: Store, name: str, size: int, *, parquet: bool = True) -> str | None:
    """What a look at a file tells: missing, no plain file, of the wrong size, or not Parquet."""
    try:
        entry = store.entry(name)
        if entry is None:
            return "is missing"
        if entry.kind != "file":
            return "is a link" if entry.kind == "link" else "is no file"
        if entry.size != size:
            return f"has {entry.size} bytes instead of {size}"
        if not parquet:
            return None
        with store.open(name) as file:
            start = file.read(4)
            file.seek(max(0, size - 4))
            end = file.read(4)
    except DamageError:
        return "lies behind a link"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if start == end == b"PAR1" else "is no Parquet file any more"


def changed_file(snapshot: Snapshot, run: str | None, *, budget: int = 2 << 30) -> tuple[str, str] | None:
    """The first committed file (path, run) with another checksum than recorded, smallest first, within a budget."""
    entries = [
        (entry, run_id)
        for run_id, log in snapshot.runs.items()
        if not log.removed and run in (None, run_id)
        for entry in log.files
    ]
    for entry, run_id in sorted(entries, key=lambda e: e[0].size):
        budget -= entry.size
        if budget < 0:
            return None
        if file_checksum(snapshot.store, entry.path, entry.checksum) != entry.checksum:
            return entry.path, run_id
    return None


def file_checksum(store: Store, name: str, wanted: Checksum) -> Checksum:
    """The checksum of a file's bytes, by the algorithm of the one that is wanted."""
    with store.open(name) as file:
        return wanted.of_file(file)
