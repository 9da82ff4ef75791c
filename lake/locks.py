"""Writer locks: held while a process writes a run, released by the kernel when it dies, so never stale."""

from pathlib import Path

from .errors import LockedError

# A reader that asks "is anyone writing?" holds the lock for microseconds; a writer outwaits it.
PATIENCE_S = 1.0


class WriterLock:
    """The exclusive lock of one writer of one run."""

    def __init__(self, path: Path) -> None:
        from filelock import FileLock

        self.path = path
        self._lock = FileLock(path, is_singleton=False, thread_local=False)

    def acquire(self, what: str) -> "WriterLock":
        """Take the lock; LockedError if another process keeps it."""
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=PATIENCE_S, poll_interval=0.02)
        except Timeout:
            raise LockedError(
                f"Another process is writing {what}. Wait for it to finish, or stop it, then try again."
            ) from None
        return self

    def release(self) -> None:
        """Give the lock back; harmless when not held."""
        self._lock.release(force=True)


def is_held(path: Path) -> bool:
    """Whether some process holds this lock file."""
    if not path.exists():
        return False
    from filelock import FileLock, Timeout

    lock = FileLock(path, is_singleton=False, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except PermissionError:
        return False  # A reader that may not open the file cannot ask; on such a lake nothing here is being written.
    lock.release(force=True)
    return False


def held_writers(folder: Path, run_id: str) -> list[str]:
    """Writers of a run whose locks are held now."""
    paths = sorted(folder.glob(f"{run_id}.*.lock"))
    return [path.name.split(".")[1] for path in paths if is_held(path)]
