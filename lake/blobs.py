"""Blobs: the committed files of a run that are no tables, found by name and read with their checksum."""

import json
import struct
from typing import Any

from .errors import DamageError, NotFoundError, did_you_mean
from .json_values import parse
from .records.commits import BlobEntry
from .snapshot import RunLog
from .storage.store import Store

_MOST_HEADER_BYTES = 100 << 20


def find_blob(log: RunLog, name: str) -> BlobEntry:
    """The latest committed blob of this name; NotFoundError if the run has none."""
    for entry in reversed(log.blobs):
        if entry.name == name:
            return entry
    names = dict.fromkeys(entry.name for entry in log.blobs)
    raise NotFoundError(f"Run {log.run_id} has no blob {name!r}.{did_you_mean(name, names)}")


def read_blob(store: Store, entry: BlobEntry) -> bytes:
    """The bytes of a blob; DamageError unless they are those that were committed."""
    try:
        with store.open(entry.path) as file:
            data = file.read()
    except OSError as error:
        raise DamageError(f"{entry.path} cannot be read: {error}. Run `lake verify` to see what is hit.") from error
    if entry.checksum.of_bytes(data) != entry.checksum:
        raise DamageError(f"{entry.path} is not what was committed. Run `lake verify --level full`.")
    return data


def content_problem(store: Store, entry: BlobEntry) -> str | None:
    """What is wrong with the inside of a blob whose checksum is right: it does not parse as what its name says."""
    try:
        with store.open(entry.path) as file:
            if entry.name.endswith(".json"):
                parse(file.read(), entry.path)
            elif entry.name.endswith(".npy"):
                return _array_problem(file)
            else:
                return _tensors_problem(file, entry.size)
    except DamageError as error:
        return str(error)
    return None


def _array_problem(file: Any) -> str | None:
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        dtype = read(file)[2]
    except ValueError as error:
        return f"is no array: {error}"
    return "holds pickled objects, which nothing here reads" if dtype.hasobject else None


def _tensors_problem(file: Any, size: int) -> str | None:
    """A safetensors file: the length of a JSON header, the header, then the bytes that it describes."""
    head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
    if length > min(size - 8, _MOST_HEADER_BYTES):
        return "is no safetensors file: its header is longer than the file"
    try:
        header = json.loads(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        whole = max(ends, default=0) == size - 8 - length
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        return f"is no safetensors file: {error}"
    return None if whole else "is no safetensors file: its tensors do not fill it"
