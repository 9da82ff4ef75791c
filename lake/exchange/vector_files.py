"""`lake export vectors`: the activations of one layer and site as one matrix file, with an index of its rows beside it.

Streamed: memory holds one batch of rows, whatever the run's size.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DamageError, UsageError, did_you_mean
from ..output.files import replaced
from ..reading.batches import vector_files
from ..records.layers import layer_number
from ..tables.states import ACTIVATIONS
from ..values import Json
from ..vectors import to_float32

if TYPE_CHECKING:
    from ..lake import Lake

FORMATS = ("npy", "safetensors", "parquet")
INDEX = ("sequence_id", "position", "stack")
_SAFETENSORS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_NPY = {"float32": "<f4", "float16": "<f2"}


@dataclass(frozen=True)
class ExportedVectors:
    """What was written: row r of the matrix is row r of the index."""

    file: str
    index: str | None
    rows: int
    dim: int
    dtype: str


@dataclass(frozen=True)
class _Matrix:
    """The vectors of one layer and site, batch by batch, in one number format."""

    rows: int
    dim: int
    dtype: str
    kept: bool
    """Whether values are written as they are stored."""
    keys: pa.Schema
    """Columns that say which token each row is of."""
    batches: Iterator[tuple[pa.Table, np.ndarray]]


def export_vectors(
    lake: "Lake",
    run: str,
    *,
    layer: int,
    site: str,
    form: str,
    target: Path,
    where: str | None = None,
    join: Sequence[str] = (),
    batch_rows: int = 8192,
) -> ExportedVectors:
    """Write the activations of one layer (negative: from the last) and site of a run, all or those `where` chooses.

    The stored number format is kept where the file format has it (npy: float32, float16; safetensors: also bfloat16;
    parquet: float32 lists, with the keys in the same file); otherwise values become float32, exactly.
    With `where` (SQL over the columns of `token_steps` and `sequences`, and `generated`, `last`) or `join` (columns to
    write beside the keys) the chosen vectors are in memory once, sorted by key; else memory holds one batch.
    """
    if form not in FORMATS:
        raise UsageError(f"--format {form!r}.{did_you_mean(form, FORMATS)}")
    run_id = lake.resolve_run(run)
    matrix = _matrix(lake, run_id, layer=layer, site=site, form=form, batch_rows=batch_rows)
    if where is not None or join:
        raw = matrix.kept
        chosen = lake.vectors(layer, site, run_id, where=where or "true", join=join, raw=raw, batch_rows=batch_rows)
        labels = chosen.rows.to_arrow()
        matrix = replace(matrix, rows=len(chosen), keys=labels.schema, batches=iter([(labels, chosen.matrix)]))
    index = None if form == "parquet" else target.with_name(f"{target.name}.keys.parquet")
    with ExitStack() as files:
        file = files.enter_context(replaced(target))
        if index is None:
            _write_parquet(file, matrix)
        else:
            keys = files.enter_context(replaced(index))
            name = f"{site}.{layer_number(run_id, lake.run_json(run_id), layer)}"
            file.write(_npy_header(matrix) if form == "npy" else _safetensors_header(matrix, name))
            _write_raw(file, keys, matrix)
    return ExportedVectors(str(target), None if index is None else str(index), matrix.rows, matrix.dim, matrix.dtype)


def _matrix(lake: "Lake", run_id: str, *, layer: int, site: str, form: str, batch_rows: int) -> _Matrix:
    rows = sum(entry.rows for entry in vector_files(lake.snapshot(run_id), layer, site))
    stored = lake.vectors(layer, site, run_id, raw=True, batch_rows=batch_rows)
    first_keys, first = next(stored)
    kind, dim = first_keys["dtype"][0].as_py(), first.shape[1]
    kept = kind in {"npy": _NPY, "safetensors": _SAFETENSORS, "parquet": {}}[form]
    schema = pa.schema([ACTIVATIONS.schema.field(name) for name in INDEX])
    batches = _converted((first_keys, first), stored, kind, kept=kept)
    return _Matrix(rows, dim, kind if kept else "float32", kept, schema, batches)


def _converted(
    first: tuple[pa.Table, np.ndarray], rest: Iterator[tuple[pa.Table, np.ndarray]], kind: str, *, kept: bool
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The batches in the format of the file; UsageError where a later file of the run has another one."""
    dim = first[1].shape[1]

    def one(keys: pa.Table, values: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        here = keys["dtype"][0].as_py()
        if values.shape[1] != dim or (kept and here != kind):
            raise UsageError(
                f"The run's vectors are of several formats ({kind} x {dim}, {here} x {values.shape[1]}): "
                "they do not make one matrix. Export as parquet, or one run at a time."
            )
        scale = keys["scale"].to_numpy() if here == "int8" else None
        return keys, values if kept else to_float32(values, here, scale)

    yield one(*first)
    for keys, values in rest:
        yield one(keys, values)


def _npy_header(matrix: _Matrix) -> bytes:
    """Header of the NumPy format, version 1.0: magic, version, length, a dict padded to 64 bytes."""
    about = {"descr": _NPY[matrix.dtype], "fortran_order": False, "shape": (matrix.rows, matrix.dim)}
    text = repr(about).encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _safetensors_header(matrix: _Matrix, name: str) -> bytes:
    """Header of the safetensors format: its length in 8 bytes, then JSON padded to 8 bytes."""
    size = matrix.rows * matrix.dim * (4 if matrix.dtype == "float32" else 2)
    shape = [matrix.rows, matrix.dim]
    about: Json = {name: {"dtype": _SAFETENSORS[matrix.dtype], "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(about).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_raw(file: BinaryIO, keys: BinaryIO, matrix: _Matrix) -> None:
    written = 0
    with pq.ParquetWriter(keys, matrix.keys, compression="zstd") as index:
        for rows, values in matrix.batches:
            file.write(np.ascontiguousarray(values).data)
            index.write_table(rows.select(matrix.keys.names).cast(matrix.keys))
            written += len(values)
    _check(written, matrix)


def _write_parquet(file: BinaryIO, matrix: _Matrix) -> None:
    schema = pa.schema([*matrix.keys, pa.field("vector", pa.list_(pa.float32(), matrix.dim), nullable=False)])
    written = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows, values in matrix.batches:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            vectors = pa.FixedSizeListArray.from_arrays(flat, matrix.dim)
            writer.write_table(pa.table([*(rows[name] for name in matrix.keys.names), vectors], schema=schema))
            written += len(values)
    _check(written, matrix)


def _check(written: int, matrix: _Matrix) -> None:
    if written != matrix.rows:
        raise DamageError(
            f"{written} vectors were read where the records name {matrix.rows}. Run `lake verify` to see what is hit."
        )
