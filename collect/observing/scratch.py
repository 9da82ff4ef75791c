"""Memory for large intermediate results that is used again, instead of being given back and faulted in anew."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Scratch:
    """Room for results, by name: what is taken under a name stands where the last one of that name stood."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor | None:
        """A tensor to give as `out=`, of the type of `like`; None where an ordinary one does as well.

        That is on devices other than the processor, whose allocators keep memory, and where gradients may be wanted.
        """
        if like.device.type != "cpu" or not torch.is_inference_mode_enabled():
            return None
        n_elements, held = math.prod(shape), self._held.get(name)
        if held is None or held.dtype != like.dtype or held.numel() < n_elements:
            held = self._held[name] = torch.empty(n_elements, dtype=like.dtype)
        return held[:n_elements].view(*shape)
