"""Committed vectors as numpy batches, straight from the files: for training and statistics."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import DamageError, NotFoundError
from .layout import PART, SAFE_NAME, check_name
from .snapshot import Snapshot
from .table import Table
from .tables.states import ACTIVATIONS
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


def read_commits(
    snapshot: Snapshot, table: Table, only: Mapping[str, int | str]
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Key columns and vectors (float32) of the rows where key columns have the values `only`, one commit at a time.

    A sequence is never split between commits, so each piece has whole sequences; rows are in no order across files.
    """
    commits: dict[str, list[str]] = {}
    for entry in snapshot.files(table.name):
        if entry.may_hold(only):
            match = PART.fullmatch(entry.path.rpartition("/")[2])
            commits.setdefault(f"{match['writer']}-{match['seq']}" if match else entry.path, []).append(entry.path)
    for paths in commits.values():
        keys, matrices = [], []
        for rows, vectors in _batches(snapshot, paths, raw=False, batch_rows=1 << 20):  # a commit is bounded
            wanted = np.ones(len(vectors), bool)
            for column, value in only.items():
                wanted &= pc.call_function("equal", [rows[column], pa.scalar(value)]).to_numpy()
            keys.append(rows.filter(pa.array(wanted)))
            matrices.append(vectors if wanted.all() else vectors[wanted])
        rows = pa.concat_tables(keys)
        if len(rows):
            yield rows, matrices[0] if len(matrices) == 1 else np.concatenate(matrices)


def _batches(
    snapshot: Snapshot, paths: Sequence[str], *, raw: bool, batch_rows: int
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    for path in paths:
        try:
            with pq.ParquetFile(snapshot.store.open(path), page_checksum_verification=True) as file:
                dtype = file.schema_arrow.field("vector").metadata[b"dtype"].decode()
                for batch in file.iter_batches(batch_rows):
                    stored = from_binary(batch.column("vector"), dtype)
                    keys = pa.Table.from_batches([batch]).drop_columns("vector")
                    scale = batch.column("scale").to_numpy(zero_copy_only=False) if dtype == "int8" else None
                    yield keys, stored if raw else to_float32(stored, dtype, scale)
        except (OSError, pa.ArrowException) as error:
            raise DamageError(f"{path} cannot be read: {error}. Run `lake verify` to see what is hit.") from error
