"""Safetensors files as numpy arrays in float32: numpy has no bfloat16, and most published weights are of it."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import ConfigError, NotFoundError
from ..vectors import to_float32

_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LONGEST_HEADER = 100 << 20


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Every floating-point tensor of the file; ConfigError if it is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        size = int.from_bytes(data[:8], "little")
        if not 2 <= size <= min(len(data) - 8, _LONGEST_HEADER):
            raise ValueError("its header has no length")
        header = json.loads(data[8 : 8 + size])
        return {
            str(name): _tensor(data, 8 + size, about)
            for name, about in header.items()
            if name != "__metadata__" and about["dtype"] in _KINDS
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no whole safetensors file: {error}. Fetch it again.") from error


def _tensor(data: bytes, begin: int, about: Mapping[str, object]) -> np.ndarray:
    first, last = about["data_offsets"]  # type: ignore[misc]
    kind = np.dtype(_KINDS[str(about["dtype"])])
    flat = np.frombuffer(data[begin + int(first) : begin + int(last)], kind)
    stored = flat.reshape([int(n) for n in about["shape"]])  # type: ignore[union-attr]
    if about["dtype"] == "BF16":
        return to_float32(stored, "bfloat16")
    return stored.astype(np.float32)
