"""One open Parquet file in staging: written forward, hashed on the way, synced, described for the commit record."""

import hashlib
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .. import layout
from ..records.commits import BlobEntry, FileEntry
from ..schema import SCHEMA_VERSION
from ..storage.store import NewFile, Store
from ..tables.table import Table
from ..values import Json
from . import keys

Partition = Mapping[str, int | str]
ENCODERS = 2  # files written at once: encoding is bound by one core's memory traffic
ROW_GROUP_BYTES = 16 << 20
_HASH_BYTES = 1 << 20  # handed to the hashing thread at once
_AHEAD = 8  # such batches that may wait: bounds memory
_VECTOR_PAGE_BYTES = 256 << 10  # pages that stay in the processor's cache while they are checksummed


class Threads:
    """Where encoding, hashing and syncing run, or in line if the disk is a model of one."""

    def __init__(self, store: Store) -> None:
        self._encode = ThreadPoolExecutor(ENCODERS, "lake-encode") if store.parallel else None
        self._beside = ThreadPoolExecutor(1, "lake-spill") if store.parallel else None
        self._hash = ThreadPoolExecutor(1, "lake-hash") if store.parallel else None
        self._sync = ThreadPoolExecutor(4, "lake-sync") if store.parallel else None

    def each(self, write: Callable[[Any], None], items: list[Any]) -> None:
        """Call `write` with each item, some at a time; the first error is raised when all have ended."""
        if self._encode is None:
            for item in items:
                write(item)
            return
        futures = [self._encode.submit(write, item) for item in items]
        wait(futures)
        for future in futures:
            future.result()

    def beside(self, write: Callable[[Any], None], items: list[Any]) -> Future[None] | None:
        """Begin to do the same beside the caller, who waits for the future before the next time."""
        if self._beside is None:
            return self.each(write, items)
        return self._beside.submit(self.each, write, items)

    def hash(self, digest: "hashlib._Hash", pieces: list[bytes]) -> Future[None] | None:
        """Feed the digest; pieces of one file keep their order."""
        if self._hash is None:
            return _feed(digest, pieces)
        return self._hash.submit(_feed, digest, pieces)

    def sync(self, file: NewFile) -> Future[None] | None:
        """Sync the file; the caller waits for the future before it trusts the bytes."""
        if self._sync is None:
            return file.sync()
        return self._sync.submit(file.sync)

    def close(self) -> None:
        """End the threads."""
        for pool in (self._beside, self._encode, self._hash, self._sync):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)


def _feed(digest: "hashlib._Hash", pieces: list[bytes]) -> None:
    for piece in pieces:
        digest.update(piece)


class HashedFile:
    """The sink that the Parquet writer writes to: passes bytes to the disk, counts them and hashes them."""

    closed = False

    def __init__(self, file: NewFile, threads: Threads) -> None:
        self.file = file
        self.size = 0
        self._threads = threads
        self._digest = hashlib.sha256()
        self._waiting: deque[Future[None]] = deque()
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._given_up = False

    def write(self, data: bytes) -> int:
        """Write `data`; nothing more once the file is given up (closing a Parquet writer writes a footer)."""
        if self._given_up:
            return len(data)
        self.file.write(data)
        self.size += len(data)
        self._pieces.append(data)
        self._pieces_bytes += len(data)
        if self._pieces_bytes >= _HASH_BYTES:
            self._hash_pieces()
        return len(data)

    def _hash_pieces(self) -> None:
        pieces, self._pieces, self._pieces_bytes = self._pieces, [], 0
        if future := self._threads.hash(self._digest, pieces):
            self._waiting.append(future)
            while self._waiting and (self._waiting[0].done() or len(self._waiting) > _AHEAD):
                self._waiting.popleft().result()

    def sha256(self) -> str:
        """The digest of all bytes written."""
        self._hash_pieces()
        while self._waiting:
            self._waiting.popleft().result()
        return self._digest.hexdigest()

    def give_up(self) -> None:
        """Ignore all further writes."""
        self._given_up = True

    # The rest of what pyarrow asks of a sink.
    def tell(self) -> int:
        """Bytes written."""
        return self.size

    def flush(self) -> None:
        """Nothing is buffered here."""

    def close(self) -> None:
        """The owner closes the file, after syncing it."""

    def readable(self) -> bool:
        """Never."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Never: Parquet is written forward."""
        return False


@dataclass(frozen=True)
class Place:
    """Where one commit of one writer writes."""

    store: Store
    run_id: str
    writer: str
    seq: int

    @property
    def staging(self) -> str:
        """The writer's drafts."""
        return layout.staging(self.run_id, self.writer)

    def part_name(self) -> str:
        """A name that nothing else has or will have."""
        return f"part-{self.writer}-{self.seq:06d}-{secrets.token_hex(4)}"


class PartFile:
    """One Parquet file of a segment, from its first row group to its entry in the commit record."""

    def __init__(self, place: "Place", threads: Threads, table: Table, schema: pa.Schema, partition: Partition) -> None:
        name = f"{place.part_name()}.parquet"
        self.table = table
        self.partition: dict[str, int | str] = dict(partition)
        self.target = layout.part(table.name, place.run_id, self.partition, name)
        self.draft = f"{place.staging}/{table.name}-{name.removesuffix('.parquet')}.part"
        self.last_key: keys.Key | None = None
        self.rows = 0
        self._ranges: dict[str, list[int | str]] = {}
        self._store, self._threads = place.store, threads
        self._syncing: Future[None] | None = None
        self._file = self._store.create(self.draft)
        self._sink = HashedFile(self._file, threads)
        try:
            self._writer = pq.ParquetWriter(self._sink, _with_metadata(schema, table), **_options(table))
        except OSError:
            self._file.close()
            self._store.remove([self.draft])
            raise
        self._row_group_rows = _row_group_rows(table, schema)

    @property
    def bytes_written(self) -> int:
        """Bytes in the file so far."""
        return self._sink.size

    def write(self, rows: pa.Table, key: dict[str, pa.Array]) -> None:
        """Append sorted rows as row groups."""
        self._writer.write_table(rows, row_group_size=self._row_group_rows)
        self.rows += len(rows)
        self.last_key = keys.key_of(key, len(rows) - 1)
        self._ranges = keys.merge_ranges(self._ranges, keys.key_ranges(key))

    def finish(self) -> None:
        """Write the footer and start syncing: the next file is encoded meanwhile."""
        self._writer.close()
        self._syncing = self._threads.sync(self._file)

    def entry(self) -> FileEntry:
        """Wait until the bytes are durable; what the commit record says of the file."""
        if self._syncing is not None:
            self._syncing.result()
        self._file.close()
        return FileEntry(
            table=self.table.name,
            path=self.target,
            size=self._sink.size,
            sha256=self._sink.sha256(),
            rows=self.rows,
            schema_version=SCHEMA_VERSION,
            partition=self.partition,
            key_range=self._ranges,
        )

    def drop(self) -> None:
        """Close and remove the file, whatever state it is in."""
        self._sink.give_up()
        self._writer.close()
        if self._syncing is not None:
            self._syncing.exception()
        self._file.close()
        self._store.remove([self.draft])


class BlobFile:
    """One blob of a commit: written forward, hashed on the way."""

    def __init__(self, place: Place, threads: Threads, folder: str, name: str) -> None:
        self.name = name
        self.target = f"{folder}/{name}"
        self.draft = f"{place.staging}/{folder.rpartition('/')[2]}-{name.replace('/', '=')}.part"
        self._store, self._threads = place.store, threads
        self._file = place.store.create(self.draft)
        self._sink = HashedFile(self._file, threads)

    def write(self, data: bytes) -> int:
        """Append all of `data`."""
        return self._sink.write(data)

    def entry(self) -> BlobEntry:
        """Make the bytes durable; what the commit record says of the blob."""
        self._file.sync()
        self._file.close()
        return BlobEntry(self.name, self.target, self._sink.size, self._sink.sha256())

    def drop(self) -> None:
        """Close and remove the draft."""
        self._file.close()
        self._store.remove([self.draft])


def _with_metadata(schema: pa.Schema, table: Table) -> pa.Schema:
    return schema.with_metadata({"tracelake.table": table.name, "tracelake.schema_version": str(SCHEMA_VERSION)})


def _row_group_rows(table: Table, schema: pa.Schema) -> int:
    if not table.vector:
        return table.row_group_rows
    return max(1, min(table.row_group_rows, ROW_GROUP_BYTES // schema.field(table.vector).type.byte_width))


def _options(table: Table) -> Json:
    """Parquet settings: dictionaries for keys and text only (floats rarely repeat), statistics for key columns."""
    plain = {c.name for c in table.columns if pa.types.is_floating(c.type) or pa.types.is_nested(c.type)} | {
        table.vector
    }
    compression = {c.name: "none" if c.name == table.vector else "zstd" for c in table.columns}
    return {
        "compression": "zstd" if table.compressed else compression,
        "data_page_size": _VECTOR_PAGE_BYTES if table.vector else None,
        "use_dictionary": [c.name for c in table.columns if c.name not in plain],
        "write_statistics": [name for name in table.key if name != table.vector],
        "write_page_checksum": True,
        "version": "2.6",
    }
