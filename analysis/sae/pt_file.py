"""Arrays out of a .pt file: the one place where a pickle is read, by torch's reader that makes tensors only."""

import pickle
from pathlib import Path

import numpy as np
import torch

from ...lake.errors import ConfigError, NotFoundError


def read_pt(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary, in float32; ConfigError for anything else that a pickle may hold."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{path} holds more than tensors, or is damaged: {reason} It was not loaded.") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"{path} holds no state dictionary of tensors.")
    return {str(name): value.float().numpy() for name, value in state.items()}
