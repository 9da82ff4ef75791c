"""A model of which only the final norm and the unembedding are loaded: enough to read states of its last layers."""

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from ....lake.values import Json
from ...tinymath import WEIGHTS
from ..fingerprints import folder_digest
from ..readout import Readout
from .load import BUNDLED
from .outline import outline


def load_readout(name: str, *, dtype: str, device: str) -> Readout | None:
    """Final norm and unembedding of a model in a local folder, nothing else of it read; None where that cannot be.

    Which module is the final norm is read off its name here, so whoever uses it must see that its numbers are right.
    """
    folder = WEIGHTS if name == BUNDLED else Path(name)
    if not folder.is_dir():
        return None
    shell = outline(name, dtype=dtype, device=device)
    head = shell.model.get_output_embeddings()
    norm = _norm_behind(shell.text.base, shell.decoder.blocks)
    if not isinstance(head, nn.Linear) or norm is None or shell.encoder is not None:
        return None
    names = {id(parameter): key for key, parameter in shell.model.named_parameters()}
    tensors = _tensors(folder)
    wanted = [(module, own, parameter) for module in (norm, head) for own, parameter in module.named_parameters()]
    places = [_stored_name(names.get(id(parameter), ""), tensors) for _, _, parameter in wanted]
    if None in places or any(buffer.is_meta for module in (norm, head) for buffer in module.buffers()):
        return None
    for (module, own, parameter), place in zip(wanted, places, strict=True):
        assert place is not None
        value = _read(tensors[place], place).to(shell.device, parameter.dtype)
        if value.shape != parameter.shape:
            return None
        setattr(module, own, nn.Parameter(value, requires_grad=False))
    shell.weights_sha256 = folder_digest(folder)
    return Readout(shell, norm)


def _norm_behind(base: nn.Module, blocks: nn.ModuleList) -> nn.Module | None:
    """The only child of the base that is called a norm and stands behind the blocks."""
    children = list(base.children())
    if not any(child is blocks for child in children):
        return None
    place = next(i for i, child in enumerate(children) if child is blocks)
    norms = [child for child in children[place + 1 :] if "norm" in type(child).__name__.lower()]
    return norms[0] if len(norms) == 1 else None


def _tensors(folder: Path) -> dict[str, Path]:
    """The file of each weight in a checkpoint."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header: Json = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        found |= {key: file for key in header if key != "__metadata__"}
    return found


def _stored_name(name: str, tensors: dict[str, Path]) -> str | None:
    """A weight's name in the checkpoint, which may leave out the first part of it."""
    return next((one for one in (name, name.partition(".")[2]) if one in tensors), None)


def _read(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)
