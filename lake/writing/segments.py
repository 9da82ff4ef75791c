"""One segment of a run: buffers rows of all tables, spills when full, becomes visible whole or not at all.

Order of a seal: files written and synced in staging, renamed into data/, folders synced, then the commit record
published create-only and its folder synced. Only then does progress count.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from .. import layout
from ..errors import UsageError, did_you_mean
from ..records.commits import check_blob_name
from ..schema import TABLES, stored_tables
from ..storage.store import explained
from ..tables.series import GENERATION_SERIES
from ..tables.table import Table
from ..values import Json
from ..vectors import check_vectors
from .buffers import TableBuffer
from .keys import key_of
from .parts import BlobFile, PartFile, Place
from .series import GenerationSeries
from .threads import Threads


@dataclass(frozen=True)
class Commit:
    """What a segment becomes: where it writes, what its record says, and how the record is published."""

    what: str
    place: Place
    fields: Mapping[str, object]
    publish: Callable[..., object]
    """Called with the record's fields."""
    is_unsure: Callable[[], bool]
    """Whether it is unknown, after an error, if the record counts."""
    release: Callable[["SegmentWriter"], None]
    """Called with the segment when it ends, whatever became of it."""
    series: GenerationSeries | None = None
    """What is made of the rows on their way, to be written with them."""


class SegmentWriter:
    """One segment: buffers rows of all tables, spills when the buffers are full, seals when the block ends well."""

    def __init__(self, commit: Commit, *, buffer_bytes: int) -> None:
        self.run_id, self.what = commit.place.run_id, commit.what
        self.bytes_buffered = 0
        self._commit, self._place = commit, commit.place
        self._written = 0
        self._limit = buffer_bytes
        self._threads: Threads | None = None
        self._buffers: dict[tuple[Any, ...], TableBuffer] = {}
        self._spilling: Future[None] | None = None
        self._open: dict[tuple[Any, ...], PartFile] = {}
        self._parts: list[PartFile] = []
        self._blobs: list[BlobFile] = []
        self._blob_folder = layout.part(layout.BLOBS, self.run_id, {}, commit.place.part_name())
        self._counters: dict[str, int] = {}
        self._notes: Json = {}
        self._sealed = False

    @property
    def bytes_written(self) -> int:
        """Bytes spilled to staging so far (after sealing: the bytes of the committed files)."""
        return self._written + sum(part.bytes_written for part in self._parts if not self._sealed)

    def append(self, table: str, columns: Mapping[str, object]) -> None:
        """Add rows: columns are numpy or Arrow arrays, lists, or scalars (repeated); a missing nullable column is null.

        Arrays are kept, not copied, until they are written: do not write into them afterwards.
        """
        declared = _declared(table)
        if declared.vector:
            raise UsageError(f"{table} holds vectors: use append_vectors.")
        partition: dict[str, int | str] = {}
        for name in declared.partitions:
            value = columns.get(name)
            if not isinstance(value, int | str):
                raise UsageError(f"{table} is laid out by {name}: give one value of it per append.")
            partition[name] = value
        layout.part(table, self.run_id, partition, "x")  # refuses values that cannot be folders, now
        rest = {name: values for name, values in columns.items() if name not in partition}
        self._add((table, *partition.values()), declared, partition, rest, None)

    def append_vectors(
        self,
        table: str,
        *,
        columns: Mapping[str, object],
        vectors: np.ndarray,
        dtype: str,
        layer: int | None = None,
        site: str | None = None,
    ) -> None:
        """Add vectors [rows, dim]; bfloat16 as uint16 bit patterns, int8 with a `scale` column.

        The arrays are kept, not copied, until they are written: do not write into them afterwards.
        """
        declared = _declared(table)
        if not declared.vector:
            raise UsageError(f"{table} holds no vectors: use append.")
        place = {"layer": layer, "site": site}
        partition = {name: place[name] for name in declared.partitions}
        for name, value in place.items():
            if (value is None) == (name in partition):
                raise UsageError(f"{table} {'needs' if value is None else 'has no'} {name}.")
        matrix = check_vectors(vectors, dtype, f"{table}.{declared.vector}")
        if "scale" in declared.names and (dtype == "int8") == (columns.get("scale") is None):
            raise UsageError(f"{table}.scale must be given for int8 vectors and only for them; dtype is {dtype}.")
        dim = matrix.shape[1]
        key = (table, *partition.values(), dtype, dim)
        if key not in self._buffers:
            layout.part(table, self.run_id, partition, "x")  # refuses values that cannot be folders, now
        self._add(
            key,
            declared,
            partition | {"dtype": dtype, "dim": dim},
            columns,
            matrix,
        )

    @contextmanager
    def blob(self, name: str) -> Iterator[BlobFile]:
        """A file of this commit that is no table, to be written forward: .safetensors, .npy or .json.

        The blobs of one commit lie in one folder under their names, which may begin with a folder of their own, so that
        what belongs together stays together.
        """
        if check_blob_name(name) in [blob.name for blob in self._blobs]:
            raise UsageError(f"{self.what.capitalize()} of run {self.run_id} has a blob {name!r} already.")
        with explained(f"writing {name} of {self.what} of run {self.run_id}"):
            self._threads = self._threads or Threads(self._place.store)
            file = BlobFile(self._place, self._threads, self._blob_folder, name)
            self._blobs.append(file)
            yield file

    def add_blob(self, name: str, data: bytes) -> None:
        """A whole blob at once."""
        with self.blob(name) as file:
            file.write(data)

    def count(self, **counters: int) -> None:
        """Add to the counters of the commit record, e.g. n_sequences and n_tokens."""
        for name, value in counters.items():
            self._counters[name] = self._counters.get(name, 0) + int(value)

    def note(self, values: Mapping[str, Any]) -> None:
        """Say something in the commit record for whoever resumes the run."""
        self._notes |= values

    def _add(
        self,
        place: tuple[Any, ...],
        table: Table,
        constants: Mapping[str, int | str],
        columns: Mapping[str, object],
        vectors: np.ndarray | None,
    ) -> None:
        if place not in self._buffers:
            self._buffers[place] = TableBuffer(table, {"run_id": self.run_id, **constants})
        self.bytes_buffered += self._buffers[place].append(columns, vectors)
        if self.bytes_buffered > self._limit:
            with explained(f"writing {self.what} of run {self.run_id}"):
                self._spill()

    def _spill(self, *, last: bool = False) -> None:
        """Begin to write what is buffered to the open files, two at a time; what comes next is buffered meanwhile.

        The last time a file ends with its rows, so that the disk stores it while the next one is encoded.
        """
        self._settle()
        full = [(place, buffer) for place, buffer in self._buffers.items() if buffer.n_rows]
        self._buffers, self.bytes_buffered = {}, 0
        if last:
            filled = {place for place, _ in full}
            for place in self._open.keys() - filled:
                self._open.pop(place).finish()
        if full:
            self._threads = self._threads or Threads(self._place.store)
            self._spilling = self._threads.beside(partial(self._write, last=last), full)
            if last:
                self._place.store.make(dict.fromkeys(self._folder(buffer) for _, buffer in full))

    def _settle(self) -> None:
        """Wait for the spill that is being written; its error is raised here."""
        spilling, self._spilling = self._spilling, None
        if spilling is not None:
            spilling.result()

    def _write(self, filled: tuple[tuple[Any, ...], TableBuffer], *, last: bool) -> None:
        """Write one buffer; rows that would break its file's order start a new file."""
        place, buffer = filled
        rows, key = buffer.take()
        if self._commit.series is not None:
            self._commit.series.take(buffer.table.name, rows)
        part = self._open.get(place)
        if part is not None and (part.last_key is None or key_of(key, 0) <= part.last_key):
            part.finish()
            part = None
        if part is None:
            part = self._open[place] = self._new_part(buffer)
        part.write(rows, key)
        if last:
            self._open.pop(place).finish()

    def _folder(self, buffer: TableBuffer) -> str:
        """Where the rows' file will be placed."""
        return layout.part(buffer.table.name, self.run_id, _partition(buffer), "").rstrip("/")

    def _new_part(self, buffer: TableBuffer) -> PartFile:
        assert self._threads is not None
        part = PartFile(self._place, self._threads, buffer.table, buffer.file_schema(), _partition(buffer))
        self._parts.append(part)
        return part

    def _seal(self) -> None:
        self._spill(last=True)
        self._settle()
        if self._commit.series is not None and (columns := self._commit.series.columns()) is not None:
            self.append(GENERATION_SERIES.name, columns)
            self._spill(last=True)
            self._settle()
        self._parts.sort(key=lambda part: part.target)  # threads finish in any order
        files, blobs = [part.entry() for part in self._parts], [blob.entry() for blob in self._blobs]
        moves = [(one.draft, one.target) for one in (*self._parts, *self._blobs)]
        rows = {name: sum(e.rows for e in files if e.table == name) for name in ("sequences", "token_steps")}
        counters = {"n_sequences": rows["sequences"], "n_tokens": rows["token_steps"]} | self._counters
        columns = {entry.table: TABLES[entry.table].names for entry in files}
        try:
            self._place.store.place(moves)
            fields = {"files": files, "blobs": blobs, "columns": columns, "counters": counters, "extra": self._notes}
            self._commit.publish(**self._commit.fields, **fields)
        except BaseException:
            if not self._commit.is_unsure():
                with suppress(OSError):
                    self._place.store.remove(target for _, target in moves)
            raise
        self._written, self._sealed = sum(entry.size for entry in (*files, *blobs)), True

    def __enter__(self) -> "SegmentWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.seal()
        else:
            self.abandon()

    def seal(self) -> None:
        """Write, sync and publish everything; the segment is committed when this returns, and dropped if it raises."""
        try:
            with explained(f"writing {self.what} of run {self.run_id}"):
                self._seal()
        finally:
            self._end()

    def abandon(self) -> None:
        """Drop everything that was appended."""
        self._end()

    def _end(self) -> None:
        if self._spilling is not None:
            wait([self._spilling])  # dropped with the rest, whatever became of it
        if not self._sealed:
            self._drop()
        if self._threads is not None:
            self._threads.close()
        self._buffers.clear()
        self.bytes_buffered = 0
        self._commit.release(self)

    def _drop(self) -> None:
        """Forget the segment: its staging files go, and nothing of it was ever visible."""
        for part in (*self._parts, *self._blobs):
            with suppress(OSError):  # on a failing disk the error that matters is the first; resuming cleans up too
                part.drop()


def _partition(buffer: TableBuffer) -> dict[str, int | str]:
    return {name: buffer.constants[name] for name in buffer.table.partitions}


def _declared(table: str) -> Table:
    found = TABLES.get(table)
    if found is None or found.kind == "view":
        raise UsageError(
            f"There is no table {table!r} to write.{did_you_mean(table, [t.name for t in stored_tables()])}"
        )
    return found
