"""Sites between two parts of a block: its input and what has been added to it so far, which no module returns."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .anatomy import Anatomy
from .places import Place


def watch_sum(anatomy: Anatomy, site: str, layer: int, see: Callable[[Tensor], None]) -> Iterator[RemovableHandle]:
    """Call `see` with every state that passes from now on."""
    running: list[Tensor] = []
    yield _input(anatomy, layer).watch(lambda state: running.__setitem__(slice(None), [state]))
    summands = anatomy.summands(site, layer)
    for place in summands:
        yield place.watch(lambda added: running.append(running[-1] + added))
    yield summands[-1].watch(lambda added: see(running[-1]))


def replace_sum(
    anatomy: Anatomy, site: str, layer: int, change: Callable[[Tensor], Tensor]
) -> Iterator[RemovableHandle]:
    """Let `change(state)` go on: the last summand makes up for the difference."""
    running: list[Tensor] = []

    def corrected(added: Tensor) -> Tensor:
        state = running[-1] + added
        changed = change(state)
        # Where nothing changes no bit may; elsewhere the sum is to be what was asked for, to the last bit of a zero.
        return torch.where(changed == state, added, changed - running[-1])

    *before, last = anatomy.summands(site, layer)
    yield _input(anatomy, layer).watch(lambda state: running.__setitem__(slice(None), [state]))
    for place in before:
        yield place.watch(lambda added: running.append(running[-1] + added))
    yield last.replace(corrected)


def _input(anatomy: Anatomy, layer: int) -> Place:
    return anatomy.place("resid_pre", layer)
