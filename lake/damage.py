"""Damage that a quick look can tell: files that are missing, cut short or no Parquet any more."""

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
