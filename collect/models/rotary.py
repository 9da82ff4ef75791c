"""Rotary embeddings that choose their factors by the largest position of a pass (`longrope`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...lake.errors import ConfigError
from ...lake.values import Json

SWITCHING = "longrope"


@dataclass(frozen=True)
class LengthSwitch:
    """Sequences of more than `length` tokens are rotated by other factors, at all of their positions.

    Left alone, such an embedding decides anew in every pass, by the largest position in it: the first chunks of a long
    prompt, or a short sequence beside a long one, are rotated by the wrong factors.
    """

    length: int
    modules: tuple[nn.Module, ...]

    @contextmanager
    def beyond(self) -> Iterator[None]:
        """Inside the block the factors are those of sequences beyond `length`, whatever a pass reads."""
        handles = []
        try:
            for module in self.modules:
                handles.append(module.register_forward_pre_hook(self._with_far_position, with_kwargs=True))
                handles.append(module.register_forward_hook(_without_far_position))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _with_far_position(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Show the embedding one more position, behind the switch."""
        positions: Tensor = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        far = torch.full_like(positions[..., :1], self.length)
        seen = torch.cat((positions, far), dim=-1)
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": seen}
        return (args[0], seen, *args[2:]), kwargs


def _without_far_position(module: nn.Module, args: tuple, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part[..., :-1, :] for part in output)


def find_switch(stack: nn.Module) -> LengthSwitch | None:
    """The switch of a stack's rotary embeddings; None if their factors are the same for all lengths.

    Dynamic scaling begins behind `max_position_embeddings`, where no sequence gets, and is no switch.
    """
    lengths: set[int] = set()
    modules = []
    for module in stack.modules():
        kinds = getattr(module, "rope_type", None)
        found = _switch_lengths(kinds, module)
        if found:
            lengths |= found
            modules.append(module)
    if not modules:
        return None
    if len(lengths) > 1:
        raise ConfigError(
            f"{type(stack).__name__} cannot be collected: its rotary embeddings change their factors at different "
            f"lengths ({', '.join(map(str, sorted(lengths)))}). Give all of its rope_parameters one "
            "original_max_position_embeddings."
        )
    return LengthSwitch(lengths.pop(), tuple(modules))


def _switch_lengths(kinds: Any, module: nn.Module) -> set[int]:
    """Where the factors of one embedding change; `kinds` is one name, or one per kind of layer."""
    if not isinstance(kinds, str | dict):
        return set()
    parameters: Json = module.config.rope_parameters  # type: ignore[union-attr, assignment]
    if isinstance(kinds, str):
        return {int(parameters["original_max_position_embeddings"])} if kinds == SWITCHING else set()
    return {
        int(parameters[layers]["original_max_position_embeddings"])
        for layers, kind in kinds.items()
        if kind == SWITCHING
    }
