"""Hooks that read the states of sites while a model runs; they are in place for the length of a with-block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .anatomy import Anatomy
from .site_names import SUMS
from .sums import watch_sum


class Tap:
    """Hooks that keep the states of some (site, layer) pairs, those of the last forward pass, `[batch pos d]` each."""

    def __init__(self, anatomy: Anatomy, kept: set[tuple[str, int]]) -> None:
        self.anatomy = anatomy
        self.kept = kept
        self.states: dict[tuple[str, int], Tensor] = {}
        for site, layer in kept:
            # A site that does not exist is an error before anything runs.
            anatomy.summands(site, layer) if site in SUMS else anatomy.place(site, layer)

    @contextmanager
    def attached(self) -> Iterator["Tap"]:
        """The hooks are in place inside the block only."""
        handles: list[RemovableHandle] = []
        try:
            for site, layer in sorted(self.kept):
                handles.extend(self._hooks(site, layer))
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self.states.clear()

    def skip(self, n: int) -> None:
        """Forget the first `n` positions of the last pass."""
        for key, state in self.states.items():
            self.states[key] = state[:, n:]

    def _hooks(self, site: str, layer: int) -> Iterator[RemovableHandle]:
        key, changed = (site, layer), site in self.anatomy.changed

        def keep(state: Tensor) -> None:
            self.states[key] = state.clone() if changed else state

        if site in SUMS:
            yield from watch_sum(self.anatomy, site, layer, keep)
        else:
            yield self.anatomy.place(site, layer).watch(keep)
