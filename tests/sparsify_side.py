"""The side of sparsify: run by its own Python, makes coders as it saves them, with x, f and y of each.

python sparsify_side.py make FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sparsify import SparseCoder, SparseCoderConfig

D_IN, D_SAE, ROWS = 16, 48, 40
KINDS = {
    "layers.1": {},
    "layers.2": {"normalize_decoder": False},
    "layers.3.mlp": {"transcode": True},
    "h.1.mlp": {"transcode": True, "skip_connection": True},
}
"""Folders are called after the module that a coder was trained on."""


def main() -> None:
    root, generator = Path(sys.argv[2]), torch.Generator().manual_seed(0)
    for name, options in KINDS.items():
        coder = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=5, **options))
        for parameter in coder.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        coder.save_to_disk(root / name)
        x = torch.randn(ROWS, D_IN, generator=generator)
        encoded = coder.encode(x)
        f = torch.zeros(ROWS, D_SAE).scatter_(1, encoded.top_indices, encoded.top_acts)
        for array_name, array in (("x", x), ("f", f), ("y", coder(x).sae_out)):
            np.save(root / name / f"{array_name}.npy", array.numpy())


if __name__ == "__main__":
    with torch.no_grad():
        main()
