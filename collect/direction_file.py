"""A direction of final-normed space, out of a `.npy` file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..lake.errors import ConfigError, NotFoundError


@dataclass(frozen=True)
class Direction:
    """A vector with the name it was given by; its length does not matter."""

    name: str
    vector: Float[Tensor, " d_model"]

    @property
    def sha256(self) -> str:
        """Of the values in float64."""
        return hashlib.sha256(self.vector.double().numpy().tobytes()).hexdigest()

    def check_width(self, run_id: str, d_model: int | None) -> None:
        """ConfigError if it does not lie in the space of the run's final states."""
        if d_model is not None and len(self.vector) != d_model:
            raise ConfigError(
                f"Direction {self.name} has {len(self.vector)} elements, the final states of run {run_id} have "
                f"{d_model}: it is of another model."
            )


def read_direction(path: Path) -> Direction:
    """The one vector of a `.npy` file; NotFoundError or ConfigError that say what is wrong with it."""
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}. A direction is a .npy file with one vector.")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ConfigError(f"{path} is no .npy file of numbers: {str(error).splitlines()[0]}") from error
    return checked_direction(path.name, array)


def checked_direction(name: str, array: np.ndarray) -> Direction:
    """A vector that can be a direction; ConfigError if it is not one vector of finite numbers, or zero."""
    vector = np.squeeze(array)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu":
        raise ConfigError(f"{name} holds {array.dtype} of shape {array.shape}; a direction is one vector of numbers.")
    vector = vector.astype(np.float64)
    if not np.isfinite(vector).all() or not np.any(vector):
        raise ConfigError(f"{name} holds {'no numbers (NaN or infinity)' if np.any(vector) else 'a vector of zeros'}.")
    return Direction(name, torch.from_numpy(vector))
