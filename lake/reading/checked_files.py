"""Committed files, opened only if their bytes are those that the commit record describes.

A file is read whole at first contact and its checksum compared. That it was right is remembered outside the lake, in
the user's cache folder, together with the file's size, times and inode: it is read again when one of them has changed.
"""

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import DamageError, LakeError
from ..output.notices import name_damaged
from ..records.commits import FileEntry
from ..snapshot import Snapshot
from ..storage.store import Store
from .care import mode

RACY_NS = 2_000_000_000
"""A file changed so recently may change again without a new time: nothing is remembered of it."""


class Identity(NamedTuple):
    """What changes when a file is written to, replaced or moved, unless somebody takes pains that it does not."""

    size: int
    mtime_ns: int
    ctime_ns: int
    device: int
    inode: int


@dataclass(frozen=True)
class CommittedFile:
    """A file and the run whose record names it."""

    run_id: str
    entry: FileEntry

    @property
    def misplaced(self) -> str | None:
        """What is wrong if the file does not lie where files of its run, table and partition lie."""
        folders = [f"{key}={value}" for key, value in self.entry.partition.items()]
        place = "/".join(["data", self.entry.table, f"run={self.run_id}", *folders])
        if self.entry.path.rpartition("/")[0] == place:
            return None
        return f"does not lie in {place}, where its record says that it belongs"


def committed_files(snapshot: Snapshot, table: str | None = None, run: str | None = None) -> Iterator[CommittedFile]:
    """The files of a snapshot, of all tables or of one, removed runs left out."""
    for run_id, log in snapshot.runs.items():
        if not log.removed and run in (None, run_id):
            for entry in log.files:
                if table in (None, entry.table):
                    yield CommittedFile(run_id, entry)


def checked_paths(snapshot: Snapshot, files: Iterable[CommittedFile]) -> list[str]:
    """Absolute paths of files for readers that open them by themselves; DamageError if one is not as committed."""
    files = list(files)
    CheckedFiles(snapshot.store).check(files)
    return snapshot.store.urls([file.entry.path for file in files])


def whole_files(snapshot: Snapshot, files: Iterable[CommittedFile], checked: "CheckedFiles") -> Iterator[CommittedFile]:
    """Files, each checked before it is given; of several runs, one with a damaged file is named and left out whole.

    DamageError if that leaves none, or if the snapshot is of one run, which was asked for.
    """
    by_run: dict[str, list[CommittedFile]] = {}
    for file in files:
        by_run.setdefault(file.run_id, []).append(file)
    damaged: dict[str, LakeError] = {}
    for run_id, own in by_run.items():
        try:
            if len(snapshot.runs) > 1:
                checked.check(own)
        except DamageError as error:
            damaged[run_id] = error
            continue
        name_damaged(snapshot.store.path, damaged)
        for file in own:
            checked.check([file])  # known already, unless it changed since
            yield file
    if damaged and len(damaged) == len(by_run):
        raise next(iter(damaged.values()))
    name_damaged(snapshot.store.path, damaged)


class CheckedFiles:
    """Opens committed files of one lake; safe to use from several threads."""

    def __init__(self, store: Store, verify: str | None = None) -> None:
        """`verify`: `always` reads each file once in this object's life, `first` once ever, `never` compares sizes."""
        self.mode = mode(verify)
        self._store, self._memory = store, Memory(store.path)
        self._known: dict[str, tuple[str, Identity]] = {}
        self._locks: dict[str, threading.Lock] = {}

    def open(self, file: CommittedFile) -> int:
        """A read-only descriptor of the file, for the caller to close; DamageError if its bytes or place are wrong."""
        if why := file.misplaced:
            raise _damage(file, why)
        descriptor = self._descriptor(file)
        try:
            self._check(file, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def check(self, files: Iterable[CommittedFile]) -> None:
        """Raise DamageError for the first file that is not what was committed."""
        for file in files:
            os.close(self.open(file))

    def _descriptor(self, file: CommittedFile) -> int:
        """The file, reached through the store: no link may stand in the way, no pipe is waited for."""
        try:
            return self._store.descriptor(file.entry.path)
        except FileNotFoundError:
            raise _damage(file, "is missing") from None
        except DamageError as error:
            raise _damage(file, f"cannot be read ({error})") from error
        except OSError as error:
            raise _damage(file, f"cannot be read ({os.strerror(error.errno or 0)})") from error

    def _check(self, file: CommittedFile, descriptor: int) -> None:
        entry = file.entry
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _damage(file, "is no file any more")
        if status.st_size != entry.size:
            raise _damage(file, f"has {status.st_size} bytes instead of {entry.size}")
        if self.mode == "never":
            return
        right = (entry.checksum.digest, identity(status))
        with self._locks.setdefault(entry.path, threading.Lock()):
            if self._known.get(entry.path) == right:
                return
            if not (self.mode == "first" and self._memory.holds(file.run_id, entry.path, right)):
                self._read(file, descriptor, right[1])
            self._known[entry.path] = right

    def _read(self, file: CommittedFile, descriptor: int, before: Identity) -> None:
        with open(descriptor, "rb", buffering=0, closefd=False) as opened:
            wanted = file.entry.checksum
            if wanted.of_file(opened) != wanted:
                raise _damage(file, f"is not what was committed: its {wanted.title} is another")
        if identity(os.fstat(descriptor)) != before:
            raise _damage(file, "changes while it is read")
        if self.mode == "first":
            self._memory.add(file.run_id, file.entry.path, (wanted.digest, before))


def identity(status: os.stat_result) -> Identity:
    """What is remembered of a file's state."""
    return Identity(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino)


class Memory:
    """Which files of a lake were right, one line each, in the user's cache folder; to lose it costs only time."""

    def __init__(self, root: Path) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
        self.folder = Path(base) / "tracelake" / "checked" / name
        self._runs: dict[str, dict[str, tuple[str, Identity]]] = {}
        self._lock = threading.Lock()

    def holds(self, run_id: str, path: str, right: tuple[str, Identity]) -> bool:
        """Whether the file was seen to have this checksum in this state."""
        with self._lock:
            return self._of_run(run_id).get(path) == right

    def add(self, run_id: str, path: str, right: tuple[str, Identity]) -> None:
        """Remember a file, unless its time is too near; a cache that cannot be written is none."""
        digest, state = right
        if not 0 < state.ctime_ns < time.time_ns() - RACY_NS or state.mtime_ns > time.time_ns():
            return
        line = " ".join([digest, *map(str, state), path]) + "\n"
        with self._lock:
            self._of_run(run_id)[path] = right
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
                descriptor = os.open(self.folder / run_id, flags, 0o600)
                try:
                    os.write(descriptor, line.encode())  # one call: lines of several processes do not mix
                finally:
                    os.close(descriptor)
            except OSError:
                return

    def _of_run(self, run_id: str) -> dict[str, tuple[str, Identity]]:
        """What is remembered of a run's files, read once."""
        if run_id not in self._runs:
            self._runs[run_id] = dict(self._lines(run_id))
        return self._runs[run_id]

    def _lines(self, run_id: str) -> Iterator[tuple[str, tuple[str, Identity]]]:
        try:
            text = (self.folder / run_id).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return
        for line in text.splitlines():
            digest, *state, path = line.split(" ")
            if len(digest) == 64 and len(state) == len(Identity._fields) and all(word.isdigit() for word in state):
                yield path, (digest, Identity(*map(int, state)))


def _damage(file: CommittedFile, why: str) -> DamageError:
    text = f"{file.entry.path} of run {file.run_id} {why}. Run `lake verify` to see what is hit."
    return DamageError(text, run_id=file.run_id)
