"""The store on a disk: folders made durable, files published create-only, leases as locks that the kernel releases."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConfigError
from ..layout import DATA, LOCKS, RUNS, STAGING, TRASH
from .disk import Disk, DiskFile
from .store import Entry, Lease, Move, Store, refused

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
_TRIES = 3
"""Attempts to use a folder that somebody sweeps away, being empty, between our making and using it."""
_SYNCS = 4
"""Folders synced at once: together they cost little more than one."""


class LocalStore(Store):
    """A lake in a folder of this machine."""

    def __init__(self, root: str | Path, disk: Disk | None = None) -> None:
        self.disk = disk or Disk(root)
        self.path = self.disk.root
        self.parallel = self.disk.parallel
        self._durable: set[str] = {""}

    def read(self, name: str) -> bytes:
        """The whole of a small file; FileNotFoundError if there is none."""
        return self.disk.read(name)

    def read_all(self, folder: str, names: Sequence[str]) -> list[bytes]:
        """Small files of one folder."""
        return self.disk.read_all(folder, names)

    def names(self, folder: str) -> list[str]:
        """Sorted names of what is directly in a folder; none if it does not exist."""
        return self.disk.names(folder)

    def walk(self, folder: str) -> list[Entry]:
        """All files below a folder, sorted by name; links are listed, never followed."""
        files, folders = self.disk.entries(folder)
        for inner in folders:
            files += self.walk(inner)
        return sorted(files, key=lambda entry: entry.name)

    def entry(self, name: str) -> Entry | None:
        """Size, time and kind of a file; None if there is none."""
        return self.disk.entry(name)

    def open(self, name: str) -> "pa.NativeFile":
        """A file open for reading from any place."""
        import pyarrow as pa

        fd = self.disk.open(name)
        again = f"/dev/fd/{fd}"
        if not os.path.exists(again):
            return pa.PythonFile(os.fdopen(fd, "rb"), "r")
        try:
            return pa.OSFile(again)  # Arrow's own file, several times as fast as one in Python
        finally:
            os.close(fd)

    def descriptor(self, name: str) -> int:
        """The same file as a descriptor of the system, for the caller to close."""
        return self.disk.open(name)

    def urls(self, names: Sequence[str]) -> list[str]:
        """The paths of files; DamageError for links and the like. One look per folder, not per file."""
        above, wanted = f"{self.path}/", set(names)
        for folder in dict.fromkeys(name.rpartition("/")[0] for name in names):
            odd = self.disk.odd(folder)
            if present := odd.keys() & wanted:
                raise refused(min(present), odd[min(present)])
        return [above + name for name in names]

    def url(self, folder: str) -> str:
        """The folder's path."""
        return f"{self.path}/{folder}"

    def create(self, name: str) -> DiskFile:
        """A new draft, its folder made if need be; FileExistsError if the name is taken."""
        return self._within([name.rpartition("/")[0]], lambda: self.disk.create(name))

    def publish(self, data: bytes, name: str, *, draft: str) -> None:
        """Write and sync a draft, give it its name create-only, sync the folder: after this it is acknowledged."""
        self.disk.unlink(draft)
        file = self.create(draft)
        try:
            file.write(data)
            file.sync()
        finally:
            file.close()
        folder = name.rpartition("/")[0]
        try:
            self._within([folder], lambda: self.disk.link(draft, name))
        except FileExistsError:
            self.disk.unlink(draft)
            raise
        self.disk.sync_folder(folder)
        self.disk.unlink(draft)

    def place(self, moves: Sequence[Move]) -> None:
        """Give drafts their names, making folders, and sync the folders."""
        folders = list(dict.fromkeys(target.rpartition("/")[0] for _, target in moves))
        self.make(folders)
        for source, target in moves:
            self._within(folders, lambda source=source, target=target: self.disk.rename(source, target))
        if self.parallel and len(folders) > 1:
            with ThreadPoolExecutor(_SYNCS, "lake-sync") as pool:
                list(pool.map(self.disk.sync_folder, folders))
        else:
            for folder in folders:
                self.disk.sync_folder(folder)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and folders below the top ones that are empty then."""
        folders: dict[str, None] = {}
        for name in names:
            self.disk.unlink(name)
            folders[name.rpartition("/")[0]] = None
        for folder in folders:
            with suppress(FileNotFoundError):
                self.disk.sync_folder(folder)
        for folder in sorted(folders, reverse=True):
            self._drop_empty(folder)

    def make(self, folders: Iterable[str]) -> None:
        """Make each folder and its ancestors, then sync the parents, each once per process.

        An ancestor that exists may have been made by a process that died before syncing its name: existing is not
        enough.
        """
        parents: dict[str, None] = {}
        made: set[str] = set()
        for folder in folders:
            parts = folder.split("/")
            for path in ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1)):
                if path not in self._durable and path not in made:
                    self.disk.make_folder(path)
                    parents[path.rpartition("/")[0]] = None
                    made.add(path)
        for parent in parents:
            self.disk.sync_folder(parent)
        self._durable |= made

    def settle(self, folder: str) -> None:
        """Make the names in a folder durable, whoever gave them."""
        self._within([folder], lambda: self.disk.sync_folder(folder))

    def make_root(self) -> None:
        """Make the lake's own folder and those it lies in."""
        for path in reversed([self.path, *self.path.parents]):
            if not path.exists():
                path.mkdir(exist_ok=True)
                Disk(path.parent).sync_folder("")

    def lease(self, name: str, *, patience_s: float) -> Lease | None:
        """The lock file, taken; a reader that looks at it is outwaited, another writer is not."""
        self.make([name.rpartition("/")[0]])
        deadline = time.monotonic() + patience_s
        while True:
            lock = _locked(self.disk, name, exclusive=True)
            if lock is not None:
                return lock
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.02)

    def held(self, name: str) -> bool:
        """Whether a process holds the lock: asked by a shared one, which other readers may have at the same time."""
        try:
            lock = _locked(self.disk, name, exclusive=False)
        except (FileNotFoundError, PermissionError):
            return (
                False  # A reader that may not open the file cannot ask; on such a lake nothing here is being written.
            )
        if lock is None:
            return True
        lock.release()
        return False

    def free_bytes(self) -> int | None:
        """Room on the lake's disk; of one that is not made yet, on that of the nearest folder."""
        return shutil.disk_usage(next(folder for folder in (self.path, *self.path.parents) if folder.is_dir())).free

    def check_places(self) -> None:
        """ConfigError if the folders that files are moved between lie on several disks."""
        disks = {self.disk.device(folder) for folder in ("", STAGING, DATA, RUNS, TRASH)} - {None}
        if len(disks) > 1:
            raise _several_disks(self.path)

    def check_writable(self) -> None:
        """Take a draft through all folders that files are moved between: they must be writable and on one disk."""
        probe = f"probe-{token_hex(4)}.part"
        steps = [f"{folder}/{probe}" for folder in (STAGING, DATA, TRASH)]
        self.make([STAGING, DATA, TRASH, RUNS, LOCKS])
        self.create(steps[0]).close()
        here = steps[0]
        try:
            for target in steps[1:]:
                self.disk.rename(here, target)
                here = target
            self.disk.link(here, f"{RUNS}/{probe}")
            self.disk.unlink(f"{RUNS}/{probe}")
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise _several_disks(self.path) from error
        finally:
            self.disk.unlink(here)

    def _within(self, folders: Sequence[str], use: Callable[[], T]) -> T:
        """`use` in folders that exist: `vacuum` may have swept an empty one away since it was made."""
        for _ in range(_TRIES):
            self.make(folders)
            try:
                return use()
            except FileNotFoundError:
                for folder in folders:
                    self._forget(folder)
        self.make(folders)
        return use()

    def _forget(self, folder: str) -> None:
        while folder:
            self._durable.discard(folder)
            folder = folder.rpartition("/")[0]

    def _drop_empty(self, folder: str) -> None:
        """Remove a folder and its ancestors below the top one as far as they are empty."""
        while "/" in folder:
            try:
                self.disk.remove_folder(folder)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return
                raise
            self._durable.discard(folder)
            folder = folder.rpartition("/")[0]


def _several_disks(path: Path) -> ConfigError:
    return ConfigError(
        f"The lake {path} cannot be written: its folders {STAGING}, {DATA}, {RUNS} and {TRASH} do not lie on one disk, "
        "and files are moved between them. Mount the whole lake instead."
    )


class FileLock:
    """A lock on an open file; the kernel releases it when the process dies, so it is never stale."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """Give it back, also where a forked process has the file open; harmless when not held."""
        if self._fd >= 0:
            import fcntl

            fd, self._fd = self._fd, -1
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


def _locked(disk: Disk, name: str, *, exclusive: bool) -> Lease | None:
    """The lock on a lock file, or None if it is taken."""
    try:
        import fcntl
    except ImportError:  # Windows
        return _windows_lock(disk, name, exclusive=exclusive)
    fd = disk.open_lock(name, writing=exclusive)
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return FileLock(fd)


def _windows_lock(disk: Disk, name: str, *, exclusive: bool) -> Lease | None:
    import filelock

    path = disk.root / name
    if not exclusive and not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no lock file", str(path))
    lock = filelock.FileLock(path, is_singleton=False, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return None
    return lock
