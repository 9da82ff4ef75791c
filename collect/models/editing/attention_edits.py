"""Edits of what one layer's attention computes with: queries, keys, values, before and after the rotary embedding.

Each is made once: before the rotary embedding where that is seen, keys and values where they enter the cache, and the
rest, or all where there is no cache, where the attention function is called.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ....lake.errors import ConfigError
from ..sites.attention_calls import HeadStates, changing_attention
from ..sites.cache_entries import changing_entries
from ..sites.rotary_calls import changing_rotary_inputs
from ..stack import SELF, Stack
from .changes import States


class SiteChange(Protocol):
    """What edits make of the states of a site, which have so many heads; the same tensor where nothing changes."""

    def __call__(self, site: str, states: States, n_heads: int) -> States: ...


class AttentionEdits:
    """The edits of some sites of one layer's self-attention, while a model runs."""

    def __init__(self, stack: Stack, layer: int, sites: Collection[str], change: SiteChange) -> None:
        self.block: nn.Module = stack.blocks[layer]
        self.modules = [m for m, at in stack.attention_modules().items() if at == (SELF, layer)]
        self.sites = sites
        self.layer = layer
        self.change = change
        self._is_running = self._is_turned = self._is_stored = False

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The edits are made inside the block only."""
        handles = (
            self.block.register_forward_pre_hook(lambda module, args: self._start(running=True)),
            self.block.register_forward_hook(lambda module, args, out: self._start(running=False), always_call=True),
        )
        with ExitStack() as entered:
            for handle in handles:
                entered.callback(handle.remove)
            entered.enter_context(changing_rotary_inputs(self.modules, self._enter_rotary))
            entered.enter_context(changing_entries(self.block, self._enter_cache))
            entered.enter_context(changing_attention(self.modules, self._attend))
            yield

    def _start(self, *, running: bool) -> None:
        self._is_running, self._is_turned, self._is_stored = running, False, False

    def _enter_rotary(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        if not self._is_running:
            return query, key
        self._is_turned = True
        return self._edited(("q",), query), self._edited(("k",), key)

    def _enter_cache(self, key: HeadStates, value: HeadStates) -> tuple[HeadStates, HeadStates]:
        self._is_stored = True
        return self._edited(self._both("k"), key), self._edited(("v",), value)

    def _attend(
        self, query: HeadStates, key: HeadStates, value: HeadStates
    ) -> tuple[HeadStates, HeadStates, HeadStates]:
        if not self._is_running:
            return query, key, value
        query = self._edited(self._both("q"), query)
        if self._is_stored or not {"k", "rot_k", "v"} & set(self.sites):
            return query, key, value
        if key.shape[2] != query.shape[2]:
            raise ConfigError(
                f"Keys and values of layer {self.layer} cannot be edited in this pass: {key.shape[2]} are attended to, "
                f"{query.shape[2]} tokens are read, and no cache took them. Edit z or attn_out."
            )
        return query, self._edited(self._both("k"), key), self._edited(("v",), value)

    def _both(self, site: str) -> tuple[str, ...]:
        """Behind the rotary embedding, if there was one; without it what enters is what comes out."""
        return (f"rot_{site}",) if self._is_turned else (site, f"rot_{site}")

    def _edited(self, sites: tuple[str, ...], states: HeadStates) -> HeadStates:
        for site in sites:
            if site in self.sites:
                n_heads = states.shape[1]
                flat = states.transpose(1, 2).flatten(2)
                changed = self.change(site, flat, n_heads)
                if changed is not flat:
                    states = _laid_out(changed.unflatten(2, (n_heads, -1)).transpose(1, 2), states)
        return states


def _laid_out(
    changed: Float[Tensor, "batch head pos d_head"], like: Float[Tensor, "batch head pos d_head"]
) -> Float[Tensor, "batch head pos d_head"]:
    """The same numbers in the memory order of `like`: an attention kernel may add in another order in another one."""
    if 0 in like.stride():
        return changed
    out = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)
    return out.copy_(changed)
