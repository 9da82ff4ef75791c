"""Vectors as fixed-length binary: dim x width bytes, little-endian, exact in every number format.

Knows numpy and Arrow buffers; nothing of files.
"""

import numpy as np
import pyarrow as pa

from .errors import DamageError, UsageError

STORED = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "bfloat16": np.dtype("<u2"), "int8": np.dtype("i1")}
"""How numpy holds each format; bfloat16 as the upper 16 bits of a float32."""


def width(dtype: str, dim: int) -> int:
    """Bytes of one vector."""
    return STORED[dtype].itemsize * dim


def check_vectors(vectors: np.ndarray, dtype: str, where: str) -> np.ndarray:
    """`vectors` as a contiguous little-endian matrix of the stored type; UsageError if it is none."""
    if dtype not in STORED:
        raise UsageError(f"{where}: dtype {dtype!r} is unknown. Possible: {', '.join(STORED)}.")
    stored = STORED[dtype]
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.shape[1] == 0:
        shape = getattr(vectors, "shape", None)
        raise UsageError(
            f"{where}: vectors must be a matrix [rows, dim], not {type(vectors).__name__} of shape {shape}."
        )
    if vectors.dtype != stored and vectors.dtype.newbyteorder("=") != stored.newbyteorder("="):
        hint = " (bfloat16 is passed as its uint16 bit patterns)" if dtype == "bfloat16" else ""
        raise UsageError(f"{where}: dtype {dtype} needs numpy {stored.newbyteorder('=')}, not {vectors.dtype}{hint}.")
    vectors = np.ascontiguousarray(vectors, stored)
    # A small slice keeps the whole array it was cut from alive, and the buffer's size would be a lie.
    base = getattr(vectors.base, "nbytes", 0)
    return vectors.copy() if base > 2 * vectors.nbytes else vectors


def to_binary(vectors: np.ndarray) -> pa.FixedSizeBinaryArray:
    """A matrix as one binary value per row, without a copy."""
    size = vectors.shape[1] * vectors.dtype.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(vectors), [None, pa.py_buffer(vectors)])


def from_binary(column: pa.Array, dtype: str) -> np.ndarray:
    """The stored matrix of a binary column without nulls whose vectors have one width, without a copy."""
    if pa.types.is_fixed_size_binary(column.type):
        size = column.type.byte_width
        start, stop = column.offset * size, (column.offset + len(column)) * size
        data = column.buffers()[1]
    else:
        wide = np.int64 if pa.types.is_large_binary(column.type) else np.int32
        offsets = np.frombuffer(column.buffers()[1], wide)[column.offset : column.offset + len(column) + 1]
        start, stop, data = int(offsets[0]), int(offsets[-1]), column.buffers()[2]
        size = (stop - start) // max(len(column), 1)
        if len(column) and not np.array_equal(np.diff(offsets), np.full(len(column), size, wide)):
            raise ValueError("the vectors have several widths")
    if not len(column) or data is None:
        return np.empty((len(column), 0), STORED[dtype])
    flat = np.frombuffer(data, np.uint8)[start:stop]
    return flat.view(STORED[dtype]).reshape(len(column), size // STORED[dtype].itemsize)


def to_float32(stored: np.ndarray, dtype: str, scale: np.ndarray | None = None) -> np.ndarray:
    """Values of a stored matrix as float32: exact for float16 and bfloat16, times scale for int8."""
    if dtype == "float32":
        return stored.view(np.float32)
    if dtype == "bfloat16":
        bits = stored.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    if dtype == "float16":
        return stored.astype(np.float32)
    if dtype == "int8":
        values = stored.astype(np.float32)
        return values if scale is None else values * np.asarray(scale, np.float32)[:, None]
    raise DamageError(f"A vector has the dtype {dtype!r}, which this version does not know. Run `lake verify`.")


def decode_column(vector: pa.ChunkedArray, dtype: pa.ChunkedArray, scale: pa.ChunkedArray) -> pa.Array:
    """The Arrow function behind FLOAT[] in SQL: binary, dtype and scale to lists of float32, null for null."""
    vectors, kinds, scales = (_one(column) for column in (vector, dtype, scale))
    if not len(vectors):
        return pa.array([], pa.list_(pa.float32()))
    names = kinds.unique()
    if vectors.null_count == 0 and len(names) == 1 and names[0].is_valid:
        try:
            stored = from_binary(vectors, names[0].as_py())
        except ValueError:
            return _decode_mixed(vectors, kinds, scales)
        return _lists(to_float32(stored, names[0].as_py(), _scales(scales)))
    return _decode_mixed(vectors, kinds, scales)


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks)
        if column.num_chunks
        else pa.array([], column.type)
    )


def _scales(scales: pa.Array) -> np.ndarray | None:
    return None if scales.null_count == len(scales) else scales.fill_null(1.0).to_numpy(zero_copy_only=False)


def _lists(values: np.ndarray) -> pa.Array:
    rows, dim = values.shape
    offsets = np.arange(0, (rows + 1) * dim, dim, dtype=np.int32) if dim else np.zeros(rows + 1, np.int32)
    # From buffers: pa.array() would import pandas wherever it is installed, a third of a second for one query.
    flat = pa.Array.from_buffers(pa.float32(), values.size, [None, pa.py_buffer(np.ascontiguousarray(values))])
    ends = pa.Array.from_buffers(pa.int32(), rows + 1, [None, pa.py_buffer(offsets)])
    return pa.ListArray.from_arrays(ends, flat)


def _decode_mixed(vectors: pa.Array, kinds: pa.Array, scales: pa.Array) -> pa.Array:
    """Batches that mix formats, widths or nulls: decode each (format, width) group at once, then restore the order."""
    import pyarrow.compute as pc

    sizes = pc.fill_null(pc.call_function("binary_length", [vectors]), -1).to_numpy(zero_copy_only=False)
    names = np.array(["" if name is None else name for name in kinds.to_pylist()])
    pieces, origin = [], []
    for name, size in sorted({(str(n), int(s)) for n, s in zip(names, sizes, strict=True)}):
        rows = np.flatnonzero((names == name) & (sizes == size))
        origin.append(rows)
        if size < 0 or not name:
            pieces.append(pa.nulls(len(rows), pa.list_(pa.float32())))
            continue
        taken = vectors.take(pa.array(rows))
        pieces.append(_lists(to_float32(from_binary(taken, name), name, _scales(scales.take(pa.array(rows))))))
    back = np.argsort(np.concatenate(origin), kind="stable")
    return pa.concat_arrays(pieces).take(pa.array(back))
