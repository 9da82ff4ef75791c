"""Committed vectors as numpy batches, straight from the files: for training and statistics."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import DamageError, NotFoundError
from ..layout import PART, SAFE_NAME, check_name
from ..records.commits import FileEntry
from ..records.layers import layer_number
from ..snapshot import Snapshot
from ..tables.states import ACTIVATIONS
from ..tables.table import Table
from ..vectors import from_binary, to_float32
from .checked_files import CheckedFiles, CommittedFile, committed_files, whole_files


def read_vectors(
    snapshot: Snapshot,
    layer: int,
    site: str,
    *,
    raw: bool,
    batch_rows: int,
    sequences: tuple[int, int] | None = None,
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Batches of key columns and vectors of one layer (negative: from the last) and site, files and pages checked.

    File by file; of `sequences` only the files that may hold ids from the first to the second.
    """
    check_name(site, SAFE_NAME, "site")
    entries = vector_files(snapshot, layer, site)
    if sequences is not None:
        low, high = sequences
        spans = [e.key_range.get("sequence_id", (low, high)) for e in entries]
        entries = [e for e, span in zip(entries, spans, strict=True) if int(span[0]) <= high and int(span[1]) >= low]
    wanted = {entry.path for entry in entries}
    files = [file for file in committed_files(snapshot, ACTIVATIONS.name) if file.entry.path in wanted]
    return _batches(snapshot, files, CheckedFiles(snapshot.store), raw=raw, batch_rows=batch_rows)


def keeps_vectors(snapshot: Snapshot, run_id: str, layer: int, site: str) -> bool:
    """Whether a run has committed vectors of a layer and site."""
    files = snapshot.files("activations", run_id) if run_id in snapshot.runs else []
    return any(int(entry.partition["layer"]) == layer and entry.partition["site"] == site for entry in files)


def vector_files(snapshot: Snapshot, layer: int, site: str) -> list[FileEntry]:
    """The committed files of one layer and site; NotFoundError, with what there is, if there are none."""
    found, kept = [], set()
    for entry in snapshot.files(ACTIVATIONS.name):
        run_id = next(part[4:] for part in entry.path.split("/") if part.startswith("run="))
        log = snapshot.runs.get(run_id)
        wanted = layer_number(run_id, log.run_json if log else {}, layer)
        kept.add((entry.partition["layer"], entry.partition["site"]))
        if entry.partition == {"layer": wanted, "site": site}:
            found.append(entry)
    if not found:
        names = ", ".join(f"{s}@{n}" for n, s in sorted(kept)) or "none"
        raise NotFoundError(f"No activations of layer {layer}, site {site!r} are committed. Possible: {names}.")
    return found


def read_commits(
    snapshot: Snapshot, table: Table, only: Mapping[str, int | str]
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Key columns and vectors (float32) of the rows where key columns have the values `only`, one commit at a time.

    A sequence is never split between commits, so each piece has whole sequences; rows are in no order across files.
    """
    checked = CheckedFiles(snapshot.store)
    commits: dict[str, list[CommittedFile]] = {}
    for file in committed_files(snapshot, table.name):
        path = file.entry.path
        if file.entry.may_hold(only):
            match = PART.fullmatch(path.rpartition("/")[2])
            commits.setdefault(f"{match['writer']}-{match['seq']}" if match else path, []).append(file)
    for files in commits.values():
        keys, matrices = [], []
        for rows, vectors in _batches(snapshot, files, checked, raw=False, batch_rows=1 << 20):  # a commit is bounded
            wanted = np.ones(len(vectors), bool)
            for column, value in only.items():
                wanted &= pc.call_function("equal", [rows[column], pa.scalar(value)]).to_numpy()
            keys.append(rows.filter(pa.array(wanted)))
            matrices.append(vectors if wanted.all() else vectors[wanted])
        rows = pa.concat_tables(keys)
        if len(rows):
            yield rows, matrices[0] if len(matrices) == 1 else np.concatenate(matrices)


def _batches(
    snapshot: Snapshot, files: Sequence[CommittedFile], checked: CheckedFiles, *, raw: bool, batch_rows: int
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    for file in whole_files(snapshot, files, checked):
        path = file.entry.path
        try:
            with pq.ParquetFile(snapshot.store.open(path), page_checksum_verification=True) as opened:
                dtype = opened.schema_arrow.field("vector").metadata[b"dtype"].decode()
                for batch in opened.iter_batches(batch_rows):
                    stored = from_binary(batch.column("vector"), dtype)
                    keys = pa.Table.from_batches([batch]).drop_columns("vector")
                    scale = batch.column("scale").to_numpy(zero_copy_only=False) if dtype == "int8" else None
                    yield keys, stored if raw else to_float32(stored, dtype, scale)
        except (OSError, pa.ArrowException) as error:
            raise DamageError(f"{path} cannot be read: {error}. Run `lake verify` to see what is hit.") from error
