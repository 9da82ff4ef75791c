"""The strongest attention edges, per head: of a whole prompt, found chunk by chunk, and of each generated token.

No whole attention map is ever held.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from .axis import Axis, columns_of

NOTHING = -1.0
"""Weight of a place that holds no edge."""


@dataclass
class StrongestEdges:
    """At most `cap` edges over `threshold` per sequence, layer and head; columns count padding, positions do not."""

    threshold: float
    cap: int
    queries: Axis
    keys: Axis
    best: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def add(self, layer: int, weights: Float[Tensor, "batch head query key"], first_query: int, first_key: int) -> None:
        """Take one block of attention weights whose first query and key stand in the given columns."""
        n_query, n_key = weights.shape[2:]
        columns = columns_of(n_query, first_query, weights.device)
        kept = (weights > self.threshold) & self.queries.in_prompt(columns)[:, None, :, None]
        candidates = torch.where(kept, weights, NOTHING).flatten(2)
        weight, place = candidates.topk(min(self.cap, candidates.shape[-1]), dim=-1)
        found = (weight, place // n_key + first_query, place % n_key + first_key)
        if layer in self.best:
            joined = [torch.cat(pair, dim=-1) for pair in zip(self.best[layer], found, strict=True)]
            weight, order = joined[0].topk(min(self.cap, joined[0].shape[-1]), dim=-1)
            found = (weight, joined[1].gather(-1, order), joined[2].gather(-1, order))
        self.best[layer] = found

    def rows(self) -> dict[str, Tensor]:
        """The kept edges as flat columns: batch row, layer, head, query and key position, weight."""
        layers = sorted(self.best)
        weight, query, key = (torch.stack([self.best[layer][i] for layer in layers]) for i in range(3))
        layer, row, head, slot = torch.nonzero(weight > NOTHING, as_tuple=True)
        at = (layer, row, head, slot)
        return {
            "row": row,
            "layer": torch.tensor(layers, device=layer.device)[layer],
            "head": head,
            "query": query[at] + self.queries.origin[row],
            "key": key[at] + self.keys.origin[row],
            "weight": weight[at],
        }


@dataclass
class QueryEdges:
    """At most `cap` edges over `threshold` of each query of one pass that is no prompt token, by layer and head."""

    threshold: float
    cap: int
    queries: Axis
    keys: Axis
    parts: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def add(self, layer: int, weights: Float[Tensor, "batch head query key"], first_query: int, first_key: int) -> None:
        """Take one block of attention weights whose first query and key stand in the given columns."""
        n_query, n_key = weights.shape[2:]
        columns = columns_of(n_query, first_query, weights.device)
        kept = (weights > self.threshold) & ~self.queries.in_prompt(columns)[:, None, :, None]
        weight, place = torch.where(kept, weights, NOTHING).topk(min(self.cap, n_key), dim=-1)
        short = (0, self.cap - weight.shape[-1])
        key = place + first_key + self.keys.origin[:, None, None, None]
        padded = (pad(weight, short, value=NOTHING), pad(key.to(torch.int32), short))
        self.parts.setdefault(layer, []).append(padded)

    def columns(self, layers: Iterable[int], again: int) -> dict[str, Float[Tensor, "batch query layer head edge"]]:
        """Weight and key position of every query but the first `again`; NOTHING where there is no edge."""
        by_layer = [[torch.cat(part, dim=2) for part in zip(*self.parts[layer], strict=True)] for layer in layers]
        stacked = [torch.stack(part)[:, :, :, again:].permute(1, 3, 0, 2, 4) for part in zip(*by_layer, strict=True)]
        return dict(zip(("edge_weight", "edge_key"), stacked, strict=True))
