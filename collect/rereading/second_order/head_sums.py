"""What passes from every neuron through every later head, summed over sequences."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....lake.errors import ConfigError, NotFoundError


class HeadSums:
    """Sums over sequences of what passes from every neuron through every later head."""

    def __init__(self, onto: Sequence[Float[Tensor, "path neuron"]]) -> None:
        self.n_layers = len(onto)
        n_bytes = 16 * sum(one.numel() for one in onto)
        if n_bytes > 2 * 2**30:
            raise ConfigError(
                f"--by head needs {n_bytes / 2**30:.1f} GiB for the sums of this model. Leave it out: the scores do "
                "not need them."
            )
        self.sums = [torch.zeros_like(one, dtype=torch.float64) for one in onto]
        self.sizes = [torch.zeros_like(one, dtype=torch.float64) for one in onto]
        self.n_sequences = 0

    def add(self, layer: int, heads: Float[Tensor, "row path neuron"]) -> None:
        """One batch of one layer."""
        for row in heads:
            self.sums[layer] += row
            self.sizes[layer] += row.abs()

    def columns(self, top: int) -> dict[str, np.ndarray]:
        """The columns of `second_order_heads`: in each layer the neurons with the most through their heads."""
        parts: list[dict[str, np.ndarray]] = []
        for layer, (sums, sizes) in enumerate(zip(self.sums, self.sizes, strict=True)):
            n_paths, n_later = sums.shape[0], self.n_layers - 1 - layer
            if not n_later:
                continue
            heads = n_paths // n_later
            chosen = sizes.sum(0).topk(min(top, sums.shape[1])).indices.sort().values
            n = len(chosen)
            path = np.arange(n_paths)
            parts.append(
                {
                    "layer_from": np.full(n * n_paths, layer, np.int32),
                    "neuron": np.repeat(chosen.cpu().numpy().astype(np.int32), n_paths),
                    "layer_to": np.tile((layer + 1 + path // heads).astype(np.int32), n),
                    "head": np.tile((path % heads).astype(np.int16), n),
                    "mean": (sums[:, chosen].T.reshape(-1) / self.n_sequences).cpu().numpy(),
                    "mean_abs": (sizes[:, chosen].T.reshape(-1) / self.n_sequences).cpu().numpy(),
                    "n_sequences": np.full(n * n_paths, self.n_sequences, np.int64),
                }
            )
        if not parts:
            raise NotFoundError("The model has one layer: nothing follows its neurons.")
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
