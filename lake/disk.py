"""Every disk operation of the store, in one object, so that tests can lose power or run out of room at any of them.

Knows nothing of tables or records.
"""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigError, DiskFullError, LakeError

FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})


class DiskFile:
    """A new file open for writing; `sync` makes its bytes durable, never its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`: a short write is continued, not an error."""
        view = memoryview(data)
        while len(view):
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        """Flush to the device. After a failure the file must be given up: pages may be marked clean."""
        sync_descriptor(self._fd)

    def close(self) -> None:
        """Close the descriptor; harmless when closed already."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class Disk:
    """The real disk. `parallel` lets the writer hash and sync in threads; models of a disk turn it off."""

    parallel = True

    def create(self, path: Path) -> DiskFile:
        """Open a new file; FileExistsError if the name is taken."""
        return DiskFile(path)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within the lake."""
        os.rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, create-only: FileExistsError if the name is taken."""
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a name; no error if it is gone."""
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """Make one folder; no error if it exists."""
        path.mkdir(exist_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        if os.name == "nt":  # Windows cannot sync a folder: the promise is weaker there, as the docs say.
            return
        fd = os.open(path, os.O_RDONLY)
        try:
            sync_descriptor(fd)
        finally:
            os.close(fd)

    def read(self, path: Path) -> bytes:
        """The whole of a small file."""
        return path.read_bytes()

    def names(self, folder: Path) -> list[str]:
        """Sorted names in a folder; none if it does not exist."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []


def sync_descriptor(fd: int) -> None:
    """fsync, and on macOS the call that also empties the drive's cache."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


class Folders:
    """Makes folders under one root and syncs every ancestor once per process.

    An ancestor that exists may have been made by a process that died before syncing its name: existing is not enough.
    """

    def __init__(self, disk: Disk, root: Path) -> None:
        self._disk, self._root = disk, root
        self._durable: set[Path] = {root}

    def make(self, folders: Iterable[Path]) -> None:
        """Make each folder and its ancestors, then sync the parents, each once."""
        parents: dict[Path, None] = {}
        made: set[Path] = set()
        for folder in folders:
            for path in reversed([folder, *folder.parents]):
                if self._root in path.parents and path not in self._durable and path not in made:
                    self._disk.make_folder(path)
                    parents[path.parent] = None
                    made.add(path)
        for parent in parents:
            self._disk.sync_folder(parent)
        self._durable |= made


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an OSError into the error that says what the user can do."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in FULL:
            raise DiskFullError(
                f"The disk is full: {doing} failed{where}. Committed segments are safe; "
                "free some room, then resume the run."
            ) from error
        if error.errno in FORBIDDEN:
            raise ConfigError(
                f"Not permitted: {doing} failed{where}: {error.strerror}. Choose a lake that this user can write."
            ) from error
        raise LakeError(f"{doing[:1].upper()}{doing[1:]} failed{where}: {error.strerror or error}.") from error
