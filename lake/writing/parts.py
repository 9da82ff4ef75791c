"""One open Parquet file in staging: written forward, hashed on the way, synced, described for the commit record."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from .. import layout
from ..records.commits import BlobEntry, FileEntry
from ..schema import SCHEMA_VERSION
from ..storage.store import Store
from ..tables.table import Table
from ..values import Json
from . import keys
from .hashed_file import HashedFile
from .threads import Threads

Partition = Mapping[str, int | str]
ROW_GROUP_BYTES = 16 << 20
_VECTOR_PAGE_BYTES = 256 << 10  # pages that stay in the processor's cache while they are checksummed


@dataclass(frozen=True)
class Place:
    """Where one commit of one writer writes."""

    store: Store
    run_id: str
    writer: str
    seq: int
    checksums: str
    """The algorithm of the checksums of its files."""

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
        self._store = place.store
        file = self._store.create(self.draft)
        self._sink = HashedFile(file, threads, place.checksums)
        try:
            self._writer = pq.ParquetWriter(self._sink, _with_metadata(schema, table), **_options(table))
        except OSError:
            self._sink.abandon()
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
        self._sink.begin_sync()

    def entry(self) -> FileEntry:
        """Wait until the bytes are durable; what the commit record says of the file."""
        checksum = self._sink.durable()
        return FileEntry(
            table=self.table.name,
            path=self.target,
            size=self._sink.size,
            checksum=checksum,
            rows=self.rows,
            schema_version=SCHEMA_VERSION,
            partition=self.partition,
            key_range=self._ranges,
        )

    def drop(self) -> None:
        """Close and remove the file, whatever state it is in."""
        self._sink.give_up()
        self._writer.close()
        self._sink.abandon()
        self._store.remove([self.draft])


class BlobFile:
    """One blob of a commit: written forward, hashed on the way."""

    def __init__(self, place: Place, threads: Threads, folder: str, name: str) -> None:
        self.name = name
        self.target = f"{folder}/{name}"
        self.draft = f"{place.staging}/{folder.rpartition('/')[2]}-{name.replace('/', '=')}.part"
        self._store = place.store
        self._sink = HashedFile(place.store.create(self.draft), threads, place.checksums)

    def write(self, data: bytes) -> int:
        """Append all of `data`."""
        return self._sink.write(data)

    def entry(self) -> BlobEntry:
        """Make the bytes durable; what the commit record says of the blob."""
        self._sink.begin_sync()
        checksum = self._sink.durable()
        return BlobEntry(self.name, self.target, self._sink.size, checksum)

    def drop(self) -> None:
        """Close and remove the draft."""
        self._sink.abandon()
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
