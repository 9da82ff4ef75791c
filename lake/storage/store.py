"""The seam of the store: every read and write under a lake's root is one of these verbs, on names relative to the root.

Names are texts with forward slashes, e.g. `_runs/R/run.json`. `local` is the store on a disk; another one has to keep
the promises written at each verb, and nothing above this file knows which one it has. Knows nothing of tables.
"""

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ..errors import ConfigError, DamageError, DiskFullError, LakeError

if TYPE_CHECKING:
    import pyarrow as pa

FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})
Move = tuple[str, str]
"""Name of a draft and the name it gets."""


@dataclass(frozen=True)
class Entry:
    """What a listing tells of one file; `modified` is in seconds since 1970."""

    name: str
    size: int
    modified: float
    kind: Literal["file", "link", "other"] = "file"


class NewFile(Protocol):
    """A draft that is being written; after `sync` its bytes are durable, never its name."""

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`."""
        ...

    def sync(self) -> None:
        """Make the bytes durable. After a failure the draft must be given up."""
        ...

    def close(self) -> None:
        """End writing; harmless when closed."""
        ...


class Lease(Protocol):
    """An exclusive right, held until it is released or the process dies."""

    def release(self) -> None:
        """Give it back; harmless when not held."""
        ...


class Store(ABC):
    """A place for one lake. Verbs raise OSError for what the system refuses and DamageError for what no lake holds."""

    parallel: bool
    """Whether files may be written and synced from several threads at once."""
    path: Path
    """Where the lake is, for people: messages name it."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole of a small file; FileNotFoundError if there is none."""

    def read_all(self, folder: str, names: Sequence[str]) -> list[bytes]:
        """Small files of one folder."""
        return [self.read(f"{folder}/{name}") for name in names]

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Sorted names of what is directly in a folder; none if it does not exist."""

    @abstractmethod
    def walk(self, folder: str) -> list[Entry]:
        """All files below a folder, sorted by name; links are listed, never followed."""

    @abstractmethod
    def entry(self, name: str) -> Entry | None:
        """Size, time and kind of a file; None if there is none."""

    @abstractmethod
    def open(self, name: str) -> "pa.NativeFile":
        """A file open for reading from any place."""

    @abstractmethod
    def descriptor(self, name: str) -> int:
        """The same file as a descriptor of the system, for the caller to close; a copy where the store is no disk."""

    @abstractmethod
    def urls(self, names: Sequence[str]) -> list[str]:
        """What DuckDB and polars read instead of the names: only files, links are refused; folders keep their names."""

    @abstractmethod
    def url(self, folder: str) -> str:
        """The folder below which the URLs of its files lie."""

    @abstractmethod
    def create(self, name: str) -> NewFile:
        """A new draft, its folder made if need be; FileExistsError if the name is taken."""

    @abstractmethod
    def publish(self, data: bytes, name: str, *, draft: str) -> None:
        """Give `data` a name that must not exist (FileExistsError): whole or not at all, durable on return."""

    @abstractmethod
    def place(self, moves: Sequence[Move]) -> None:
        """Give drafts their names, making folders; durable on return. What was moved before an error stays moved."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and folders that are empty then; names that are gone are no error."""

    @abstractmethod
    def make(self, folders: Iterable[str]) -> None:
        """Make folders, durable on return; where there are no folders, nothing."""

    @abstractmethod
    def settle(self, folder: str) -> None:
        """Make durable whatever is in a folder now; the folder is made if need be."""

    @abstractmethod
    def lease(self, name: str, *, patience_s: float) -> Lease | None:
        """An exclusive right, waited for at most so long; None if another holds it for longer."""

    @abstractmethod
    def held(self, name: str) -> bool:
        """Whether somebody holds this lease; looking does not take it."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Room that is left; None if there is no limit."""

    @abstractmethod
    def make_root(self) -> None:
        """Make the place of the lake, durable on return; no error if it exists."""

    @abstractmethod
    def check_places(self) -> None:
        """ConfigError if drafts cannot be moved from where they are written to where they belong."""

    @abstractmethod
    def check_writable(self) -> None:
        """OSError, ConfigError or DamageError if segments could not be committed here."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.entry(name) is not None


def only_files(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries, if all are plain files: DamageError for links and the like, which no lake holds."""
    for entry in entries:
        if entry.kind != "file":
            raise refused(entry.name, entry.kind == "link")
        yield entry


def refused(name: str, is_link: bool) -> DamageError:
    """The error for something that is no file or folder of a lake."""
    what = "a link" if is_link else "neither a file nor a folder where one belongs"
    return DamageError(f"{name} is {what}: nothing in a lake is read, written or deleted through it. Take it away.")


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
        if error.errno == errno.EXDEV:
            raise ConfigError(
                f"{doing[:1].upper()}{doing[1:]} failed{where}: the folders of a lake must lie on one disk, because "
                "files are moved between them."
            ) from error
        raise LakeError(f"{doing[:1].upper()}{doing[1:]} failed{where}: {error.strerror or error}.") from error
