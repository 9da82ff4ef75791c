"""Tensors to host arrays: everything of one step in one transfer."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_NUMPY = {
    torch.float32: np.dtype("<f4"),
    torch.float64: np.dtype("<f8"),
    torch.float16: np.dtype("<f2"),
    torch.bfloat16: np.dtype("<u2"),  # bit patterns; numpy has no bfloat16
    torch.int64: np.dtype("<i8"),
    torch.int32: np.dtype("<i4"),
    torch.bool: np.dtype("?"),
}


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Copy tensors to host arrays of the same names; bfloat16 as uint16 bit patterns. One transfer, one wait."""
    if all(tensor.device.type == "cpu" for tensor in tensors.values()):
        return {name: _array(tensor) for name, tensor in tensors.items()}
    flat = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors.values()]
    packed = torch.cat(flat).cpu().numpy()
    found, start = {}, 0
    for (name, tensor), part in zip(tensors.items(), flat, strict=True):
        piece = packed[start : start + part.numel()]
        # A copy aligns the bytes and lets the pack go.
        found[name] = piece.copy().view(_NUMPY[tensor.dtype]).reshape(tuple(tensor.shape))
        start += part.numel()
    return found


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
