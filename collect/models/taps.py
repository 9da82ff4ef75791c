"""Hooks that read the states of sites while a model runs; they are in place for the length of a with-block."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .anatomy import Anatomy, block_input, first_tensor
from .site_names import MODULE_SITES, SUMS


class Tap:
    """Hooks that keep the states of wanted (site, layer) pairs of the last forward pass, `[batch pos d]` each."""

    def __init__(self, anatomy: Anatomy, wanted: set[tuple[str, int]]) -> None:
        self.anatomy = anatomy
        self.wanted = wanted
        self.states: dict[tuple[str, int], Tensor] = {}
        for site, layer in wanted:
            # A site that does not exist is an error before anything runs.
            if site in SUMS:
                anatomy.modules(site, layer)
            elif site in MODULE_SITES:
                anatomy.module(site, layer)

    @contextmanager
    def attached(self) -> Iterator["Tap"]:
        """The hooks are in place inside the block only."""
        handles = []
        try:
            for site, layer in sorted(self.wanted):
                handles.extend(self._hook(site, layer))
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self.states.clear()

    def skip(self, n: int) -> None:
        """Forget the first `n` positions of the last pass."""
        for key, state in self.states.items():
            self.states[key] = state[:, n:]

    def _hook(self, site: str, layer: int) -> Iterator[Any]:
        block = self.anatomy.blocks[layer]
        key, changed = (site, layer), site in self.anatomy.changed

        def keep(key: tuple[str, int], state: Tensor) -> None:
            self.states[key] = state.clone() if changed else state

        if site == "resid_post":
            yield block.register_forward_hook(lambda m, args, out: keep(key, first_tensor(out)))
        elif site == "resid_pre":
            yield block.register_forward_pre_hook(
                lambda m, args, kw: keep(key, block_input(args, kw)), with_kwargs=True
            )
        elif site in SUMS:
            running: list[Tensor] = []
            yield block.register_forward_pre_hook(
                lambda m, args, kw: running.__setitem__(slice(None), [block_input(args, kw)]), with_kwargs=True
            )
            modules = self.anatomy.modules(site, layer)
            for module in modules:
                yield module.register_forward_hook(lambda m, args, o: running.append(running[-1] + first_tensor(o)))
            yield modules[-1].register_forward_hook(lambda m, args, out: keep(key, running[-1]))
        elif site in MODULE_SITES:
            module, is_input = self.anatomy.module(site, layer)
            if is_input:
                yield module.register_forward_pre_hook(lambda m, args: keep(key, args[0]))
            else:
                yield module.register_forward_hook(lambda m, args, out: keep(key, first_tensor(out)))
