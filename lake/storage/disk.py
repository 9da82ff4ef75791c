"""Every disk operation of the local store, in one object, so that tests can lose power or run out of room at any.

Names are relative to the root. Each operation walks there folder by folder, by descriptor and without following links,
so no link in a lake leads any of them out of it. Knows nothing of tables or records.
"""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .store import Entry, refused

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NOWAIT = getattr(os, "O_NONBLOCK", 0)
_READ = os.O_RDONLY
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and bool(_NOFOLLOW)


class DiskFile:
    """A new file open for writing; `sync` makes its bytes durable, never its name."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self._fd = fd

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
    """The real disk below one root. `parallel` lets writers hash and sync in threads; models of a disk turn it off."""

    parallel = True

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    @contextmanager
    def within(self, name: str) -> Iterator[tuple[str, int | None]]:
        """Last part of a name and the descriptor of the folder it is in; DamageError if a link is on the way."""
        folders, _, leaf = name.rpartition("/")
        parts = folders.split("/") if folders else []
        if ".." in (*parts, leaf) or "" in parts or not leaf:
            raise ValueError(f"{name!r} is no name within a lake")
        if not _BY_DESCRIPTOR:  # Windows: looked at, not held; the promise is weaker there, as the docs say.
            for depth in range(1, len(parts) + 1):
                if (self.root / "/".join(parts[:depth])).is_symlink():
                    raise refused("/".join(parts[:depth]), True)
            yield str(self.root / name), None
            return
        fd = os.open(self.root, _FOLDER)
        try:
            for depth, part in enumerate(parts):
                inner = _open_folder(part, fd, "/".join(parts[: depth + 1]))
                os.close(fd)
                fd = inner
            yield leaf, fd
        finally:
            os.close(fd)

    @contextmanager
    def folder(self, name: str) -> Iterator[int | str]:
        """A folder open for listing and syncing: its descriptor, or its path where there are none."""
        if not name:
            yield from _held(os.open(self.root, _FOLDER)) if _BY_DESCRIPTOR else iter([str(self.root)])
            return
        with self.within(name) as (leaf, fd):
            if fd is None:
                if os.path.islink(leaf):
                    raise refused(name, True)
                yield leaf
            else:
                yield from _held(_open_folder(leaf, fd, name))

    def create(self, name: str) -> DiskFile:
        """Open a new file; FileExistsError if the name is taken."""
        with self.within(name) as (leaf, fd):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY | _NOFOLLOW
            return DiskFile(os.open(leaf, flags, 0o644, dir_fd=fd), name)

    def rename(self, source: str, target: str) -> None:
        """Move a file within the lake."""
        with self.within(source) as (old, from_fd), self.within(target) as (new, to_fd):
            os.rename(old, new, src_dir_fd=from_fd, dst_dir_fd=to_fd)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name, create-only: FileExistsError if the name is taken."""
        with self.within(source) as (old, from_fd), self.within(target) as (new, to_fd):
            os.link(old, new, src_dir_fd=from_fd, dst_dir_fd=to_fd)

    def unlink(self, name: str) -> None:
        """Remove a name; no error if it is gone."""
        try:
            with self.within(name) as (leaf, fd):
                os.unlink(leaf, dir_fd=fd)
        except FileNotFoundError:
            return

    def make_folder(self, name: str) -> None:
        """Make one folder; no error if it exists."""
        with self.within(name) as (leaf, fd):
            try:
                os.mkdir(leaf, dir_fd=fd)
            except FileExistsError:
                if not stat.S_ISDIR((found := os.stat(leaf, dir_fd=fd, follow_symlinks=False)).st_mode):
                    raise refused(name, stat.S_ISLNK(found.st_mode)) from None

    def remove_folder(self, name: str) -> None:
        """Remove an empty folder."""
        with self.within(name) as (leaf, fd):
            os.rmdir(leaf, dir_fd=fd)

    def sync_folder(self, name: str) -> None:
        """Make the names in a folder durable."""
        if os.name == "nt":  # Windows cannot sync a folder: the promise is weaker there, as the docs say.
            return
        with self.folder(name) as fd:
            assert isinstance(fd, int)
            sync_descriptor(fd)

    def open(self, name: str) -> int:
        """A descriptor of a file for reading; DamageError for links, pipes and folders."""
        with self.within(name) as (leaf, folder):
            return _regular(leaf, _READ, folder, name)

    def open_lock(self, name: str, *, writing: bool) -> int:
        """A descriptor of a lock file, made if it is to be taken."""
        with self.within(name) as (leaf, folder):
            return _regular(leaf, os.O_RDWR | os.O_CREAT if writing else os.O_RDONLY, folder, name)

    def device(self, folder: str) -> int | None:
        """Number of the disk that a folder lies on; None if it does not exist."""
        try:
            with self.folder(folder) as fd:
                return os.stat(fd).st_dev
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        """The whole of a small file."""
        return _whole(self.open(name))

    def read_all(self, folder: str, names: Sequence[str]) -> list[bytes]:
        """Small files of one folder, which is looked up once."""
        with self.folder(folder) as fd:
            if not isinstance(fd, int):
                return [self.read(f"{folder}/{name}") for name in names]
            return [_whole(_regular(name, _READ, fd, f"{folder}/{name}")) for name in names]

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder; none if it does not exist."""
        try:
            with self.folder(folder) as fd:
                return sorted(os.listdir(fd))
        except FileNotFoundError:
            return []

    def entries(self, folder: str) -> tuple[list[Entry], list[str]]:
        """Files directly in a folder, and the names of its folders; none if it does not exist."""
        files, folders, above = [], [], f"{folder}/" if folder else ""
        try:
            with self.folder(folder) as fd, os.scandir(fd) as found:
                for one in found:
                    if one.is_dir(follow_symlinks=False):
                        folders.append(above + one.name)
                    else:
                        files.append(_entry(above + one.name, one.stat(follow_symlinks=False)))
        except FileNotFoundError:
            return [], []
        return files, folders

    def odd(self, folder: str) -> dict[str, bool]:
        """What is directly in a folder and no file, and whether it is a link; nothing if the folder does not exist."""
        try:
            with self.folder(folder) as fd, os.scandir(fd) as listed:
                odd = [one for one in listed if not one.is_file(follow_symlinks=False)]
                return {f"{folder}/{one.name}": one.is_symlink() for one in odd}
        except FileNotFoundError:
            return {}

    def entry(self, name: str) -> Entry | None:
        """Size, time and kind of a file; None if there is none."""
        try:
            with self.within(name) as (leaf, fd):
                return _entry(name, os.stat(leaf, dir_fd=fd, follow_symlinks=False))
        except FileNotFoundError:
            return None


def _regular(leaf: str, mode: int, folder: int | None, name: str) -> int:
    """A descriptor of a plain file; DamageError for anything else."""
    try:
        # Without waiting: a pipe would keep the reader for ever.
        fd = os.open(leaf, mode | _BINARY | _NOFOLLOW | _NOWAIT, 0o644, dir_fd=folder)
    except OSError as error:
        if _is_link(leaf, folder) or isinstance(error, IsADirectoryError):
            raise refused(name, _is_link(leaf, folder)) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise refused(name, False)
    return fd


def _whole(fd: int) -> bytes:
    """All bytes of an open file, which is closed."""
    with os.fdopen(fd, "rb", buffering=0) as file:
        return file.readall()


def _entry(name: str, found: os.stat_result) -> Entry:
    kind = "file" if stat.S_ISREG(found.st_mode) else "link" if stat.S_ISLNK(found.st_mode) else "other"
    return Entry(name, found.st_size, found.st_mtime, kind)


def _open_folder(part: str, above: int, name: str) -> int:
    try:
        return os.open(part, _FOLDER | _NOFOLLOW, dir_fd=above)
    except (NotADirectoryError, OSError) as error:
        if isinstance(error, NotADirectoryError) or _is_link(part, above):
            raise refused(name, _is_link(part, above)) from error
        raise


def _is_link(leaf: str, folder: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(leaf, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _held(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def sync_descriptor(fd: int) -> None:
    """fsync, and on macOS the call that also empties the drive's cache."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)
