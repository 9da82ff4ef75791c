"""Queries and keys as they enter the rotary embedding, where transformers' own functions turn them: changed, then seen.

Modelling files call `apply_rotary_pos_emb(q, k, ...)` or a kin of it by its name in the file: inside the block it is
one that changes them, looks, and then calls the original. A model without rotary embedding calls none.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .attached import Attached

PREFIX = "apply_rotary"
SITES = {"q": "rot_q", "k": "rot_k"}
"""Sites before the rotary embedding, and what they are after it."""
LARGEST_SPREAD = 1e-3
"""A rotation keeps norms, or (YaRN) multiplies all of them by one factor; rounding stays below this share."""
LARGEST_SPREAD_HALF = 3e-2

Enter = Callable[[int, Tensor, Tensor], None]
"""Called with the layer, and queries and keys `[batch head pos d]`."""
RotaryChange = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of queries and keys `[batch head pos d]`."""
Turned = Float[Tensor, "batch head pos d_rotary"]

_changes: Attached[RotaryChange] = Attached()
_watchers: Attached[tuple[int, Enter]] = Attached()
_running: list[nn.Module] = []
"""The modules that are computing, the innermost last."""


def turns(module: nn.Module) -> bool:
    """Whether some part of a model is a rotary embedding by its name."""
    return any("rotary" in type(part).__name__.lower() for part in module.modules())


@contextmanager
def seeing_rotary_inputs(watched: Iterable[tuple[nn.Module, int, Enter]]) -> Iterator[None]:
    """Tell each watched module's `Enter` what its layer gives to the rotary embedding, for the length of the block."""
    watchers = {module: (layer, enter) for module, layer, enter in watched}
    with _standing_in(watchers), _watchers.attaching(watchers):
        yield


@contextmanager
def changing_rotary_inputs(modules: Iterable[nn.Module], change: RotaryChange) -> Iterator[None]:
    """Let the rotary embedding turn what `change` makes of the modules' queries and keys, inside the block.

    What was attached last comes first, and all of it before what watches.
    """
    changed = dict.fromkeys(modules, change)
    with _standing_in(changed), _changes.attaching(changed):
        yield


@contextmanager
def _standing_in(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Our functions in the modelling files of the modules; within another such block those stay."""
    files: dict[str, ModuleType] = {}
    with ExitStack() as entered:
        for module in modules:
            file = sys.modules[type(module).__module__]
            if _functions(file):
                files[file.__name__] = file
                entered.enter_context(_noted(module))
        for file in files.values():
            for name, function in _functions(file):
                if not hasattr(function, "stands_in"):
                    setattr(file, name, _stand_in(function))
                    entered.callback(setattr, file, name, function)
        yield


def _functions(file: ModuleType) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(file).items() if name.startswith(PREFIX) and callable(value)]


@contextmanager
def _noted(module: nn.Module) -> Iterator[None]:
    """The module is the innermost that is running while it computes, also when that fails."""
    handles = (
        module.register_forward_pre_hook(lambda module, args: _running.append(module)),
        module.register_forward_hook(lambda module, args, output: _ended(module), always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ended(module: nn.Module) -> None:
    if _running and _running[-1] is module:
        _running.pop()


def _stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    def looked(*arguments: Any, **options: Any) -> Any:
        named = {name: options[name] for name in ("q", "k") if name in options}
        pair = (*arguments[: 2 - len(named)], *named.values())
        module = _running[-1] if _running else None
        if module is None or len(pair) != 2 or not all(isinstance(one, Tensor) and one.dim() == 4 for one in pair):
            return function(*arguments, **options)
        for change in _changes.of(module):
            pair = change(*pair)
        for layer, enter in _watchers.of(module)[:1]:
            enter(layer, *pair)
        n_placed = 2 - len(named)
        options |= dict(zip(named, pair[n_placed:], strict=True))
        return function(*pair[:n_placed], *arguments[n_placed:], **options)

    looked.stands_in = True  # type: ignore[attr-defined]
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
