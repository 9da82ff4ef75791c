"""Queries and keys as they enter the rotary embedding, seen where transformers' own functions turn them.

Modelling files call `apply_rotary_pos_emb(q, k, ...)` or a kin of it by its name in the file: inside the block it is
one that looks and then calls the original. A model without rotary embedding calls none.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

PREFIX = "apply_rotary"
SITES = {"q": "rot_q", "k": "rot_k"}
"""Sites before the rotary embedding, and what they are after it."""
LARGEST_SPREAD = 1e-3
"""A rotation keeps norms, or (YaRN) multiplies all of them by one factor; rounding stays below this share."""
LARGEST_SPREAD_HALF = 3e-2

Enter = Callable[[int, Tensor, Tensor], None]
"""Called with the layer, and queries and keys `[batch head pos d]`."""
Turned = Float[Tensor, "batch head pos d_rotary"]


def turns(module: nn.Module) -> bool:
    """Whether some part of a model is a rotary embedding by its name."""
    return any("rotary" in type(part).__name__.lower() for part in module.modules())


@contextmanager
def seeing_rotary_inputs(watched: Iterable[tuple[nn.Module, int, Enter]]) -> Iterator[None]:
    """Tell each watched module's `Enter` what its layer gives to the rotary embedding, for the length of the block."""
    current: list[tuple[int, Enter]] = []
    handles, files = [], {}
    for module, layer, enter in watched:
        file = sys.modules[type(module).__module__]
        if _functions(file):
            files[file.__name__] = file
            handles.append(module.register_forward_pre_hook(_entering(current, layer, enter)))
    before = [(file, name, function) for file in files.values() for name, function in _functions(file)]
    for file, name, function in before:
        setattr(file, name, _looking(function, current))
    try:
        yield
    finally:
        for file, name, function in before:
            setattr(file, name, function)
        for handle in handles:
            handle.remove()


def _functions(file: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(file).items() if name.startswith(PREFIX) and callable(value)]


def _entering(current: list[tuple[int, Enter]], layer: int, enter: Enter) -> Callable[..., None]:
    return lambda module, args: current.__setitem__(slice(None), [(layer, enter)])


def _looking(function: Callable[..., Any], current: list[tuple[int, Enter]]) -> Callable[..., Any]:
    def looked(*arguments: Any, **options: Any) -> Any:
        pair = [
            options.get(name, argument) for name, argument in zip(("q", "k"), (*arguments, None, None), strict=False)
        ]
        if current and len(pair) == 2 and all(isinstance(tensor, Tensor) and tensor.dim() == 4 for tensor in pair):
            layer, enter = current[0]
            enter(layer, *pair)  # type: ignore[arg-type]
        return function(*arguments, **options)

    return looked


def completed(entered: Turned, after: Float[Tensor, "batch head pos d_head"]) -> Float[Tensor, "batch head pos d_head"]:
    """What entered, with the part of each head that is not turned (Phi, StableLM), which is behind the turned one."""
    return torch.cat((entered, after[..., entered.shape[-1] :]), dim=-1)


def is_rotation(entered: Turned, after: Float[Tensor, "batch head pos d_head"]) -> bool:
    """Whether `after` can be `entered`, rotated: of as many heads and tokens, all norms changed by one factor."""
    if entered.shape[:3] != after.shape[:3] or entered.shape[3] > after.shape[3]:
        return False
    width = entered.shape[3]
    norms, turned = entered.float().norm(dim=-1), after[..., :width].float().norm(dim=-1)
    is_nothing = norms == 0  # a token of a zero embedding
    if bool(is_nothing.all()) or bool((turned[is_nothing] != 0).any()):
        return not bool(turned.any())
    factor = turned[~is_nothing] / norms[~is_nothing]
    largest = LARGEST_SPREAD if entered.dtype == torch.float32 else LARGEST_SPREAD_HALF
    return bool((factor.max() - factor.min()) <= largest * factor.mean())
