"""Damaged files: what a look at their ends tells, and which one has other bytes than committed."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from .snapshot import Snapshot


def damaged_files(snapshot: Snapshot, run: str | None) -> Iterator[tuple[str, str, str]]:
    """Committed files that are missing, have the wrong size or no Parquet ends: (path, run, what is wrong)."""
    for run_id, log in snapshot.runs.items():
        if log.removed or (run is not None and run_id != run):
            continue
        for entry in log.files:
            if why := visible_damage(snapshot.layout.root / entry.path, entry.size):
                yield entry.path, run_id, why


def visible_damage(path: Path, size: int) -> str | None:
    """What a look at the ends of a file tells: missing, of the wrong size, or not Parquet."""
    try:
        if (found := path.stat().st_size) != size:
            return f"has {found} bytes instead of {size}"
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(-4, os.SEEK_END)
            end = file.read(4)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if start == end == b"PAR1" else "is no Parquet file any more"


def changed_file(snapshot: Snapshot, run: str | None, *, budget: int = 2 << 30) -> tuple[str, str] | None:
    """The first committed file (path, run) with another SHA-256 than recorded, smallest first, within a budget."""
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
        if file_sha256(snapshot.layout.root / entry.path) != entry.sha256:
            return entry.path, run_id
    return None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
