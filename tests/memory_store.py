"""A store that holds a lake in memory: what is collected, queried or removed through it cannot have bypassed the seam.

DuckDB and polars get copies, one folder per store, written when a URL is asked for: as a remote store would.
"""

import io
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from tracelake.lake.errors import DamageError
from tracelake.lake.storage.store import Entry, Lease, Move, Store


class MemoryFile:
    """A draft in memory."""

    def __init__(self, store: "MemoryStore", name: str) -> None:
        self._store, self._name = store, name
        self._data = io.BytesIO()

    def write(self, data: bytes | memoryview) -> None:
        self._data.write(data)

    def sync(self) -> None:
        self._store.files[self._name] = (self._data.getvalue(), time.time())

    def close(self) -> None:
        if self._name in self._store.files and not self._store.files[self._name][0]:
            self.sync()


class MemoryLease:
    """A lease among the users of one store."""

    def __init__(self, store: "MemoryStore", name: str) -> None:
        self._store, self._name = store, name

    def release(self) -> None:
        self._store.leases.discard(self._name)


class MemoryStore(Store):
    """Files as a dictionary; `spool` is where copies for DuckDB and polars go."""

    parallel = True

    def __init__(self, spool: Path) -> None:
        self.path = Path("/nowhere/but/in/memory")
        self.files: dict[str, tuple[bytes, float]] = {}
        self.leases: set[str] = set()
        self._spool, self._taken = spool, threading.Lock()

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name][0]

    def names(self, folder: str) -> list[str]:
        below = [name.removeprefix(f"{folder}/") for name in self.files if name.startswith(f"{folder}/")]
        return sorted({name.split("/")[0] for name in below})

    def walk(self, folder: str) -> list[Entry]:
        return [entry for name in sorted(self.files) if name.startswith(f"{folder}/") and (entry := self.entry(name))]

    def entry(self, name: str) -> Entry | None:
        if name not in self.files:
            return None
        data, written = self.files[name]
        return Entry(name, len(data), written)

    def open(self, name: str) -> pa.NativeFile:
        return pa.BufferReader(self.read(name))

    def descriptor(self, name: str) -> int:
        if name not in self.files:
            raise FileNotFoundError(name)
        return os.open(self.urls([name])[0], os.O_RDONLY)

    def urls(self, names: Sequence[str]) -> list[str]:
        for name in names:
            if name not in self.files:
                raise DamageError(f"{name} is missing. Run `lake verify` to see what is hit.")
            copy = self._spool / name
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(self.files[name][0])
        return [str(self._spool / name) for name in names]

    def url(self, folder: str) -> str:
        return str(self._spool / folder)

    def create(self, name: str) -> MemoryFile:
        with self._taken:
            if name in self.files:
                raise FileExistsError(name)
            self.files[name] = (b"", time.time())
        return MemoryFile(self, name)

    def publish(self, data: bytes, name: str, *, draft: str) -> None:
        with self._taken:
            if name in self.files:
                raise FileExistsError(name)
            self.files[name] = (data, time.time())

    def place(self, moves: Sequence[Move]) -> None:
        for source, target in moves:
            self.files[target] = self.files.pop(source)

    def remove(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.files.pop(name, None)

    def make(self, folders: Iterable[str]) -> None:
        """There are no folders."""

    def settle(self, folder: str) -> None:
        """Nothing here outlives the process."""

    def make_root(self) -> None:
        """There is nothing to make."""

    def lease(self, name: str, *, patience_s: float) -> Lease | None:
        with self._taken:
            if name in self.leases:
                return None
            self.leases.add(name)
            self.files.setdefault(name, (b"", time.time()))
        return MemoryLease(self, name)

    def held(self, name: str) -> bool:
        return name in self.leases

    def free_bytes(self) -> int | None:
        return None

    def check_places(self) -> None:
        """There is one."""

    def check_writable(self) -> None:
        """It is."""
