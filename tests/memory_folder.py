"""A folder in memory for what tests write: the same calls and files, without waiting for a disk at each sync."""

import os
import shutil
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
LEAST_BYTES = 2_000_000_000
"""What must be free: the whole suite holds well under half of it at a time."""
PREFIX = "tracelake-tests-"


def memory_folder(parent: Path = SHARED_MEMORY, least_bytes: int = LEAST_BYTES) -> Path | None:
    """A new folder of this process, or None where memory cannot be had like that. Those of ended processes go."""
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        return None
    for left in parent.glob(f"{PREFIX}*"):
        if not _runs(int(left.name.removeprefix(PREFIX))):
            shutil.rmtree(left, ignore_errors=True)
    if min(shutil.disk_usage(parent).free, _available_bytes()) < least_bytes:
        return None
    folder = parent / f"{PREFIX}{os.getpid()}"
    folder.mkdir(mode=0o700)
    return folder


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _available_bytes() -> int:
    """Memory that can be had without swapping; none where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return 1024 * kilobytes.get("MemAvailable", 0)
