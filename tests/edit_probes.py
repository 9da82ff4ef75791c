"""What edits are tried on: models loaded once, tokens, their logits, random vectors, and how far logits are apart."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tracelake.collect.models.loading.load import load_model
from tracelake.collect.models.model import LoadedModel

IDS = torch.tensor([[40, 17, 200, 5, 88, 131, 9, 64, 77, 250, 33, 14], [3, 90, 91, 15, 201, 44, 60, 7, 120, 18, 29, 2]])


def kept_models(model_folder: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """Loads the random model of an architecture the first time that it is asked for."""
    kept: dict[str, LoadedModel] = {}

    def load(architecture: str) -> LoadedModel:
        if architecture not in kept:
            kept[architecture] = load_model(str(model_folder(architecture)), device="cpu")
        return kept[architecture]

    return load


def logits(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    """Of a plain pass; an encoder reads other tokens than its decoder."""
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs = {"input_ids": ids.flip(-1), "decoder_input_ids": ids}
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


def vector(width: int, seed: int = 0) -> Tensor:
    """Random, always the same."""
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def far(a: Tensor, b: Tensor) -> float:
    """Largest relative distance of two rows of logits."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(1e-6)).max())
