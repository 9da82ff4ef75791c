"""Where the states of a site pass: the input or the output of a module, to be read there or replaced."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.utils.generic import ModelOutput

STATES = "hidden_states"
"""What transformers call the residual stream among the arguments of a block."""


def first_tensor(output: Any) -> Tensor:
    """The states among what a module returns."""
    return output if isinstance(output, Tensor) else output[0]


def block_input(args: tuple, kwargs: dict) -> Tensor:
    """The residual stream among what a block is called with."""
    if args:
        return args[0]
    return kwargs[_name_of_states(kwargs)]


def _name_of_states(kwargs: dict) -> str:
    return STATES if STATES in kwargs else next(iter(kwargs))


def _with_input(args: tuple, kwargs: dict, state: Tensor) -> tuple[tuple, dict]:
    """The arguments of a call with another state."""
    if args:
        return (state, *args[1:]), kwargs
    return args, {**kwargs, _name_of_states(kwargs): state}


def _with_output(output: Any, state: Tensor) -> Any:
    """What a module returns with another state in its first place."""
    if isinstance(output, Tensor):
        return state
    if isinstance(output, ModelOutput):
        return type(output)(**{**output, next(iter(output)): state})
    return (state, *output[1:])


@dataclass(frozen=True)
class Place:
    """The input of a module, or its output."""

    module: nn.Module
    is_input: bool

    def watch(self, see: Callable[[Tensor], None]) -> RemovableHandle:
        """Call `see` with every state that passes from now on."""
        if self.is_input:
            return self.module.register_forward_pre_hook(
                lambda module, args, kwargs: see(block_input(args, kwargs)), with_kwargs=True
            )
        return self.module.register_forward_hook(lambda module, args, output: see(first_tensor(output)))

    def replace(self, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Let `change(state)` go on in the place of every state, and be what all those see that watch."""
        if self.is_input:
            return self.module.register_forward_pre_hook(
                lambda module, args, kwargs: _with_input(args, kwargs, change(block_input(args, kwargs))),
                with_kwargs=True,
                prepend=True,
            )
        return self.module.register_forward_hook(
            lambda module, args, output: _with_output(output, change(first_tensor(output))), prepend=True
        )
