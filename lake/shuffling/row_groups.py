"""Row groups of committed vector files: the vector column alone, read one group at a time with its page checksums.

Knows files and columns of one table; nothing of orders, epochs or batches.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DamageError
from ..reading.checked_files import CheckedFiles, CommittedFile
from ..storage.store import Store
from ..vectors import STORED, from_binary, to_float32

KEYS = ("sequence_id", "position", "stack")


@dataclass(frozen=True)
class VectorFile:
    """One committed file of vectors, its footer read once; `first_row` counts from the beginning of its commit."""

    file: CommittedFile
    footer: pq.FileMetaData
    stored: str
    dim: int
    first_row: int

    @property
    def dtype(self) -> str:
        """Format of the rows that are read: as stored, but int8 comes with its scale as float32."""
        return "float32" if self.stored == "int8" else self.stored

    @property
    def group_rows(self) -> list[int]:
        """Rows of each row group."""
        return [self.footer.row_group(group).num_rows for group in range(self.footer.num_row_groups)]


class VectorReader:
    """Reads row groups of one store's files; safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store, self._checked = store, CheckedFiles(store)

    def open(self, file: CommittedFile, first_row: int = 0) -> VectorFile:
        """The file with its footer; DamageError if its bytes are not those that were committed."""
        self._checked.check([file])
        try:
            with pq.ParquetFile(self._store.open(file.entry.path)) as opened:
                about = opened.schema_arrow.field("vector").metadata
                dtype, footer = about[b"dtype"].decode(), opened.metadata
                dim = opened.schema_arrow.field("vector").type.byte_width // STORED[dtype].itemsize
        except (OSError, pa.ArrowException, KeyError, TypeError) as error:
            raise _unreadable(file, error) from error
        return VectorFile(file, footer, dtype, dim, first_row)

    def keys(self, file: VectorFile) -> pa.Table:
        """Sequence, position and stack of every row."""
        return self._read(file, range(file.footer.num_row_groups), KEYS)

    def vectors(self, file: VectorFile, group: int) -> np.ndarray:
        """The rows of one row group in the file's `dtype` (bfloat16 as its uint16 bit patterns)."""
        with_scale = file.stored == "int8"
        table = self._read(file, [group], ("vector", "scale") if with_scale else ("vector",))
        column = table["vector"].combine_chunks()
        stored = from_binary(column.chunk(0) if isinstance(column, pa.ChunkedArray) else column, file.stored)
        return to_float32(stored, "int8", table["scale"].to_numpy()) if with_scale else stored

    def _read(self, file: VectorFile, groups: "range | list[int]", columns: tuple[str, ...]) -> pa.Table:
        path = file.file.entry.path
        self._checked.check([file.file])
        try:
            opened = pq.ParquetFile(self._store.open(path), metadata=file.footer, page_checksum_verification=True)
            with opened:
                return opened.read_row_groups(list(groups), columns=list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file.file, error) from error


def first_not_finite(vectors: np.ndarray, dtype: str) -> int | None:
    """Index of the first row with NaN or infinity; two passes over the bits tell that there is none."""
    signed, highest = {"float32": ("i4", 0x7F800000), "float16": ("i2", 0x7C00), "bfloat16": ("i2", 0x7F80)}[dtype]
    bits = vectors.view(signed)
    sign = 1 << (8 * bits.itemsize - 1)
    if bits.size == 0 or (bits.max() < highest and bits.view(signed.replace("i", "u")).max() < sign | highest):
        return None
    return int(np.flatnonzero(((bits & highest) == highest).any(axis=1))[0])


def _unreadable(file: CommittedFile, error: Exception) -> DamageError:
    return DamageError(f"{file.entry.path} cannot be read: {error}. Run `lake verify` to see what is hit.")
