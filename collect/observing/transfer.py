"""Tensors to host arrays: everything of one step in one transfer."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import UInt8
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
    here = {name: _array(tensor) for name, tensor in tensors.items() if tensor.device.type == "cpu"}
    there = {name: tensor for name, tensor in tensors.items() if name not in here}
    return here | (unpacked(packed(there).cpu().numpy(), there) if there else {})


def packed(tensors: Mapping[str, Tensor]) -> UInt8[Tensor, " byte"]:
    """The bytes of all tensors, one after the other."""
    return torch.cat([_flat(tensor).view(torch.uint8) for tensor in tensors.values()])


def unpacked(content: np.ndarray, like: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The arrays of `packed` content, with the names, types and shapes of `like`."""
    found, start = {}, 0
    for name, tensor in like.items():
        end = start + tensor.numel() * tensor.element_size()
        # A copy aligns the bytes and lets the pack go.
        found[name] = content[start:end].copy().view(_NUMPY[tensor.dtype]).reshape(tuple(tensor.shape))
        start = end
    return found


def _flat(tensor: Tensor) -> Tensor:
    # A single element is contiguous whatever its stride is, and keeps a stride that forbids another view of its bytes.
    return tensor.contiguous().as_strided((tensor.numel(),), (1,))


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
