"""The committed files of a snapshot as a file system for DuckDB: they can be opened and read, nothing can be written.

The locked connection may touch no other file, so that nothing under the lake can be changed from SQL whatever DuckDB
has or will have. A file is checked when DuckDB opens it; files that a query prunes are not.
"""

import io
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime

from fsspec.spec import AbstractFileSystem

from ..errors import LakeError
from ..reading.checked_files import CheckedFiles, CommittedFile
from ..values import Json

PREFIX = "lake:///"


class ReadOnlyFile:
    """One opened file. DuckDB seeks and reads from several threads at once, so each has a position of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._place = threading.local()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where this thread reads next."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: os.fstat(self._descriptor).st_size}[whence]
        self._place.offset = base + offset
        return self._place.offset

    def tell(self) -> int:
        """Where this thread reads next."""
        return getattr(self._place, "offset", 0)

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as many as asked for unless the file ends."""
        if size < 0:
            size = os.fstat(self._descriptor).st_size - self.tell()
        pieces = []
        while size > 0 and (piece := os.pread(self._descriptor, size, self.tell())):
            pieces.append(piece)
            self._place.offset = self.tell() + len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close the file; harmless when closed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()  # DuckDB lets go of its files without closing them


class ReadOnlyFiles(AbstractFileSystem):
    """The file system; `refused` is the last error of ours, which DuckDB passes on only as text."""

    protocol = "lake"
    cachable = False

    def __init__(self, files: Mapping[str, CommittedFile], checked: CheckedFiles) -> None:
        """`files` by their path below the root."""
        super().__init__()
        self.files, self.checked = files, checked
        self.refused: LakeError | None = None

    def glob(self, path: str, maxdepth: int | None = None, **_: object) -> list[str]:
        """The path itself: names are taken as they are."""
        return [path]

    def exists(self, path: str, **_: object) -> bool:
        """Whether the snapshot has the file."""
        return path.removeprefix(PREFIX) in self.files

    def info(self, path: str, **_: object) -> Json:
        """Name and size, as committed."""
        return {"name": path, "size": self._file(path).entry.size, "type": "file"}

    def modified(self, path: str) -> datetime:
        """A committed file never changes."""
        return datetime.fromtimestamp(0, UTC)

    def open(self, path: str, mode: str = "rb", **_: object) -> ReadOnlyFile:  # type: ignore[override]
        """The file, checked; PermissionError for anything but reading."""
        if mode not in ("rb", "r"):
            raise PermissionError(f"{path} can be read only")
        try:
            return ReadOnlyFile(self.checked.open(self._file(path)))
        except LakeError as error:
            self.refused = error
            raise

    def _file(self, path: str) -> CommittedFile:
        try:
            return self.files[path.removeprefix(PREFIX)]
        except KeyError:
            raise FileNotFoundError(f"{path} is no file of this snapshot") from None
