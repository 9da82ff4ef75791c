"""Whole attention rows of chosen heads: what each query of one pass gives to every key."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...lake.errors import ConfigError
from ..configuration.keep import Keep
from ..models.stack import SELF, Stack
from .attention_layers import ObservableAttention
from .axis import Axis
from .edges import QueryEdges


@dataclass(frozen=True)
class KeptPattern:
    """Attention rows of one head to be stored; `scope` is None (all rows), prompt or generated."""

    layer: int
    head: int
    scope: str | None
    stack: str


def kept_patterns(keep: Keep, stacks: Iterable[Stack], attention: ObservableAttention) -> tuple[KeptPattern, ...]:
    """The rows that `--keep` asks for, each head once; ConfigError for layers whose attention cannot be observed."""
    stacks = tuple(stacks)
    deepest = max(stack.n_layers for stack in stacks)
    scopes: dict[tuple[str, int, int], set[str | None]] = {}
    for item in keep.patterns:
        for stack in stacks:
            observed = attention.layers_of(stack, SELF)
            for layer, heads in item.resolve(stack.n_layers, stack.n_heads, deepest).items():
                if layer not in observed and item.heads.startswith("*"):
                    continue
                if layer not in observed:
                    raise ConfigError(f"The attention of layer {layer} cannot be kept: {attention.reason}.")
                for head in heads:
                    scopes.setdefault((stack.name, layer, head), set()).add(item.scope)
    return tuple(
        KeptPattern(layer, head, next(iter(names)) if len(names) == 1 else None, stack)
        for (stack, layer, head), names in sorted(scopes.items())
    )


def heads_of(kept: Iterable[KeptPattern], stack: str, scopes: Collection[str]) -> dict[int, tuple[int, ...]]:
    """Heads of a stack, by layer, whose rows are to be kept for tokens of one of the scopes."""
    found: dict[int, tuple[int, ...]] = {}
    for item in kept:
        if item.stack == stack and (item.scope is None or item.scope in scopes):
            found[item.layer] = (*found.get(item.layer, ()), item.head)
    return found if scopes else {}


@dataclass
class Patterns:
    """The rows of one pass. They go to the host block by block: a head's whole map need not fit on the device."""

    heads: Mapping[int, tuple[int, ...]]
    """By layer."""
    keys: Axis
    parts: dict[int, list[Tensor]] = field(default_factory=dict)
    first_key: dict[int, int] = field(default_factory=dict)
    """Column of the first key, by layer."""

    def add(self, layer: int, weights: Float[Tensor, "batch head query key"], first_query: int, first_key: int) -> None:
        """Take one block of attention weights whose first query and key stand in the given columns."""
        if layer in self.heads:
            chosen = torch.tensor(self.heads[layer], device=weights.device)
            self.parts.setdefault(layer, []).append(weights.index_select(1, chosen).cpu())
            self.first_key[layer] = first_key

    def rows(self, again: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """By `LAYER/HEAD`: weights `[row key]` of all queries but the first `again`, and the first key's position."""
        for layer, parts in sorted(self.parts.items()):
            whole = torch.cat(parts, dim=2)[:, :, again:]
            first = (self.first_key[layer] + self.keys.origin).cpu().to(torch.int32).repeat_interleave(whole.shape[2])
            for i, head in enumerate(self.heads[layer]):
                yield f"{layer}/{head}", whole[:, i].flatten(0, 1), first


@dataclass(frozen=True)
class QueryWeights:
    """What takes the weights of single queries of one pass, by kind of attention."""

    edges: Mapping[str, QueryEdges]
    patterns: Mapping[str, Patterns]

    def takers(self, kind: str) -> list[QueryEdges | Patterns]:
        """Those that see the weights of one kind."""
        return [taken[kind] for taken in (self.edges, self.patterns) if kind in taken]

    def rows(self, kind: str, layers: Sequence[int], select: Tensor | None, *, again: int) -> dict[str, Tensor]:
        """Edges and whole rows by column of a block; a row's first key stands at the position in `first/...`."""
        found: dict[str, Tensor] = {}
        if kind in self.edges:
            for name, values in self.edges[kind].columns(layers, again).items():
                flat = values.flatten(0, 1)
                found[f"{kind}/{name}"] = flat if select is None else flat[select]
        if kind in self.patterns:
            chosen = slice(None) if select is None else select.cpu()
            for name, weights, first in self.patterns[kind].rows(again):
                found[f"pattern/{kind}/{name}"], found[f"first/{kind}/{name}"] = weights[chosen], first[chosen]
        return found
