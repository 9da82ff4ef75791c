"""Edits from settings: their vectors are read from files or given by name, and checked against the model."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ....lake.errors import ConfigError, NotFoundError, did_you_mean
from ...configuration.edit import EditSetting
from ..model import LoadedModel
from .changes import Add, Change, Mean, ProjectOut, Zero
from .edits import Edit


def edits_of(
    settings: Iterable[EditSetting], loaded: LoadedModel, named: Callable[[str], np.ndarray]
) -> tuple[Edit, ...]:
    """The edits of all layers that the settings name, in their order; every one fits the model.

    `named` gives the vector of a stored direction.
    """
    found: list[Edit] = []
    for setting in settings:
        stack = next((stack for stack in loaded.stacks if stack.name == setting.stack), None)
        if stack is None:
            raise ConfigError(f"--edit {setting.text!r}: {loaded.name} has no {setting.stack}.")
        try:
            change = _change(setting, named)
            for layer in setting.resolve(stack.n_layers):
                edit = Edit(setting.site, layer, change, setting.scope, setting.units, setting.stack, setting.source)
                edit.check(loaded)
                found.append(edit)
        except ConfigError as error:
            raise ConfigError(f"--edit {setting.text!r}: {error}") from error
    return tuple(found)


def _change(setting: EditSetting, named: Callable[[str], np.ndarray]) -> Change:
    if setting.source is None:
        return Zero()
    vector = read_vector(setting.source) if setting.is_file else torch.from_numpy(named(setting.source))
    if setting.kind == "add":
        return Add(vector, setting.strength)
    return (Mean if setting.kind == "mean" else ProjectOut)(vector)


def read_vector(source: str) -> Tensor:
    """The one-dimensional array of a `.npy` file, or of a `.safetensors` file (`FILE#NAME` where it holds several)."""
    name, _, tensor = source.partition("#")
    path = Path(name).expanduser()
    if not path.is_file():
        raise NotFoundError(f"There is no file {name!r} with a vector. Give a .npy or .safetensors file.")
    if path.suffix == ".npy":
        return _checked(_npy(path), name)
    if path.suffix == ".safetensors":
        return _checked(_safetensors(path, tensor), name)
    raise ConfigError(f"{name}: vectors are read from .npy and .safetensors files.")


def _npy(path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read as an array: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ConfigError(f"{path} holds no numbers; save a one-dimensional float array.")
    return torch.from_numpy(array.astype(np.float32))


def _safetensors(path: Path, tensor: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if not tensor and len(names) == 1:
                tensor = names[0]
            if tensor not in names:
                raise ConfigError(
                    f"{path} holds {len(names)} arrays; name one as {path.name}#NAME.{did_you_mean(tensor, names)}"
                )
            return file.get_tensor(tensor)
    except SafetensorError as error:
        raise ConfigError(f"{path} is not a safetensors file: {error}") from error


def _checked(vector: Tensor, name: str) -> Tensor:
    if vector.ndim != 1:
        raise ConfigError(f"{name} holds an array of shape {list(vector.shape)}; an edit needs one vector.")
    return vector
