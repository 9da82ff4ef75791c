"""Committed vectors as numpy batches, straight from the files: for training and statistics."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import DamageError, NotFoundError
from .layout import SAFE_NAME, check_name
from .schema import ACTIVATIONS
from .snapshot import Snapshot
from .vectors import from_binary, to_float32


def read_vectors(
    snapshot: Snapshot, layer: int, site: str, *, raw: bool, batch_rows: int
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Batches of key columns and vectors of one layer and site, file by file, page checksums verified."""
    check_name(site, SAFE_NAME, "site")
    entries = [e for e in snapshot.files(ACTIVATIONS.name) if e.partition == {"layer": layer, "site": site}]
    if not entries:
        kept = sorted({(e.partition["layer"], e.partition["site"]) for e in snapshot.files(ACTIVATIONS.name)})
        names = ", ".join(f"{s}@{n}" for n, s in kept) or "none"
        raise NotFoundError(f"No activations of layer {layer}, site {site!r} are committed. Possible: {names}.")
    return _batches(snapshot, [e.path for e in entries], raw=raw, batch_rows=batch_rows)


def _batches(
    snapshot: Snapshot, paths: Sequence[str], *, raw: bool, batch_rows: int
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    for path in paths:
        try:
            with pq.ParquetFile(snapshot.layout.root / path, page_checksum_verification=True) as file:
                dtype = file.schema_arrow.field("vector").metadata[b"dtype"].decode()
                for batch in file.iter_batches(batch_rows):
                    stored = from_binary(batch.column("vector"), dtype)
                    keys = pa.Table.from_batches([batch]).drop_columns("vector")
                    scale = batch.column("scale").to_numpy(zero_copy_only=False) if dtype == "int8" else None
                    yield keys, stored if raw else to_float32(stored, dtype, scale)
        except (OSError, pa.ArrowException) as error:
            raise DamageError(f"{path} cannot be read: {error}. Run `lake verify` to see what is hit.") from error
