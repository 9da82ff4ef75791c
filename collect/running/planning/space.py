"""Whether what a run may write fits on the disk of its lake."""

from pathlib import Path

from ....lake.errors import DiskFullError, UsageError


def check_space(needed: int, free: int | None, folder: Path, *, assume_yes: bool) -> None:
    """Refuse `needed` bytes that do not fit in `free` ones (None: without end), ask for a yes where they take half."""
    if free is None or needed <= free / 2:
        return
    sizes = f"The run may write {needed / 1e9:.2f} GB; {free / 1e9:.2f} GB are free in {folder}."
    if needed > free:
        raise DiskFullError(f"{sizes} Keep less (--keep), generate less, or set a limit with --max-bytes.")
    if not assume_yes:
        raise UsageError(f"{sizes} That is more than half: add --yes to start, or set a limit with --max-bytes.")
