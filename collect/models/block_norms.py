"""Where a model norms its residual stream: before every attention, behind attention and MLP, and at the end."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from ...lake.errors import ConfigError
from .model import LoadedModel
from .norms import Norm, norm_form
from .readout import final_norm
from .sites.anatomy import Recording, named_parts


@dataclass(frozen=True)
class BlockNorms:
    """The norms that a path through one block's attention, or out of its MLP, meets."""

    before_attention: Norm
    behind_attention: Norm | None
    behind_mlp: Norm | None


@dataclass(frozen=True)
class StreamNorms:
    """All norms of a decoder's residual stream; made by `stream_norms`."""

    blocks: tuple[BlockNorms, ...]
    final: Norm


def stream_norms(loaded: LoadedModel) -> StreamNorms:
    """The form of every norm; ConfigError where attention reads anything but a norm of the residual stream."""
    stack, anatomy = loaded.decoder, loaded.decoder.anatomy
    recordings = [Recording(block, part) for block, part in zip(stack.blocks, anatomy.parts, strict=True)]
    with torch.no_grad(), ExitStack() as entered:
        for recording in recordings:
            entered.enter_context(recording.attached())
        loaded.probe()
    blocks = []
    for layer, parts in enumerate(anatomy.parts):
        attention, mlp = (anatomy.module(site, layer)[0] for site in ("attn_out", "mlp_out"))
        blocks.append(
            BlockNorms(
                _form(loaded, _norm_before(stack.blocks[layer], parts.attention, recordings[layer], layer)),
                None if attention is parts.attention else _form(loaded, attention),
                None if mlp is parts.mlp else _form(loaded, mlp),
            )
        )
    return StreamNorms(tuple(blocks), _form(loaded, final_norm(stack)))


def _form(loaded: LoadedModel, module: nn.Module | None) -> Norm:
    return norm_form(module, loaded.d_model, loaded.device)


def _norm_before(block: nn.Module, attention: nn.Module | None, recording: Recording, layer: int) -> nn.Module | None:
    """The part of the block whose output the attention reads and whose input is the block's; None for no norm."""
    parts, seen = named_parts(block), recording.states
    name = next((name for name, module in parts.items() if module is attention), None)
    read = seen.get(f"read:{name}")
    if read is not None and torch.equal(read, seen["input"]):
        return None
    for other, module in parts.items():
        states = (seen.get(f"read:{other}"), seen.get(f"wrote:{other}"))
        if read is None or any(state is None or state.shape != read.shape for state in states):
            continue
        if torch.equal(states[0], seen["input"]) and torch.equal(states[1], read):  # type: ignore[arg-type]
            return module
    raise ConfigError(
        f"{type(block).__name__}: the attention of layer {layer} does not read a norm of the residual stream, so that "
        "paths through its heads cannot be followed."
    )
