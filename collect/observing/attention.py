"""Observes attention where it happens: where a model calls its attention function.

It sees queries and keys after rotary embedding, reduces their scores in float32 on the spot, and lets the model compute
with the implementation it would use anyway. No attention map is ever kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..models.sites.attention_calls import watching_attention
from ..models.sites.rotary_calls import SITES as ROTARY
from ..models.sites.rotary_calls import completed, is_rotation, seeing_rotary_inputs
from .axis import columns_of
from .scratch import Scratch
from .summaries import AttentionRows, attention_rows

LOWEST = torch.finfo(torch.float32).min


class WeightTaker(Protocol):
    """What wants to see attention weights, block by block."""

    def add(self, layer: int, weights: Tensor, first_query: int, first_key: int) -> None:
        """Take one block of weights `[batch head query key]`, whose first query and key stand in the given columns."""
        ...


class AttentionObserver:
    """Collects what every layer's heads did during one forward pass; `read` after it, `start` before the next.

    One observer sees one kind of attention of one stack. `block_bytes` bounds the score block that is alive at one
    time; queries are taken in blocks of that size.
    """

    def __init__(
        self, kind: str = "self", *, causal: bool, statistics: bool, capture: frozenset[str], block_bytes: int
    ) -> None:
        self.kind = kind
        self.causal = causal and kind == "self"
        self.statistics = statistics
        self.capture = capture
        self.block_bytes = block_bytes
        self._scratch = Scratch()
        self.misses: dict[int, float] | None = None
        """Where asked for, how far each layer's output is from what the observed weights and values give."""
        self.start(0)

    def start(
        self, seen: int, middle_columns: tuple[Tensor, Tensor] | None = None, takers: Sequence[WeightTaker] = ()
    ) -> None:
        """Forget the last pass. `seen`: columns that the stack has read when the coming pass is over.

        `middle_columns`: first and end key column of each row's middle prompt third. `takers` see the attention
        weights of the pass, block by block.
        """
        self.seen = seen
        self.middle_columns = middle_columns
        self.takers = tuple(takers)
        self._rows: dict[int, AttentionRows] = {}
        self._waiting: dict[int, tuple[Tensor, Tensor | None]] = {}
        """Masked scores and sinks of layers that saw one query, to be reduced together."""
        self.n_keys: dict[int, Tensor] = {}
        self.states: dict[tuple[str, int], Tensor] = {}
        self.key_lengths: dict[int, int] = {}
        self._counted: dict[int, tuple[object, Tensor]] = {}
        self._looked_at: dict[int, tuple[object, bool]] = {}
        self._asked: dict[int, tuple[Tensor, Tensor]] = {}
        self.entered: dict[int, tuple[Tensor, Tensor]] = {}
        """By layer, what entered the rotary embedding."""
        self.turned: dict[tuple[str, int], bool] = {}
        """In a trial, whether what the attention sees is that, turned."""
        self.repeated = self.conflicts = False

    @property
    def rows(self) -> dict[int, AttentionRows]:
        """What was seen of each layer."""
        self._settle()
        return self._rows

    def skip(self, n: int) -> None:
        """Forget the first `n` queries of the last pass."""
        self._rows = {
            layer: AttentionRows(*(None if values is None else values[:, :, n:] for values in rows))  # type: ignore[arg-type]
            for layer, rows in self.rows.items()
        }
        self.n_keys = {layer: count[:, n:] for layer, count in self.n_keys.items()}
        self.states = {key: state[:, n:] for key, state in self.states.items()}

    def first_key(self, n_key: int) -> int:
        """Column of the first of the keys at hand: a sliding cache starts late, the encoder's are all there."""
        return self.seen - n_key if self.kind == "self" else 0

    def observe(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict
    ) -> None:
        """Reduce one layer's attention; shapes `[batch head query d_head]`, keys with their own number of heads.

        A layer that weighs several sets of values with the same attention is observed once.
        """
        if layer in self._asked:
            self.repeated = True
            self.conflicts |= any(a is not b for a, b in zip(self._asked[layer], (query, key), strict=True))
            return
        self._asked[layer] = (query, key)
        n_new = query.shape[2]
        sites = {"rot_q": query, "rot_k": key[:, :, -n_new:], "v": value[:, :, -n_new:]}
        for site, after in ROTARY.items():
            if site in self.capture:
                pair = self.entered.get(layer)
                sites[site] = sites[after] if pair is None else completed(pair[site == "k"], sites[after])
                if pair is not None and self.misses is not None:
                    self.turned[site, layer] = is_rotation(pair[site == "k"], sites[after])
        for site in self.capture:
            self.states[site, layer] = sites[site].transpose(1, 2).flatten(2)
        if self.statistics:
            self.n_keys[layer] = self._visible(mask, query, key)
            self.key_lengths[layer] = key.shape[2]
            if n_new == 1 and not self.takers and self.middle_columns is None:
                self._wait(layer, _masked(query, key.float(), self._additive(mask, 1, key), options), options, query)
            else:
                self._rows[layer] = self._reduce(layer, query, key, mask, options)

    def enter_rotary(self, layer: int, query: Tensor, key: Tensor) -> None:
        """Note what a layer gives to its rotary embedding."""
        self.entered[layer] = (query, key)

    def prove(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict, output: Any
    ) -> None:
        """Compare the output of one layer's attention with that of the weights that are observed."""
        if self.misses is None:
            return
        weights = self._weights(query, key, mask, options)
        shared = value.shape[1]
        grouped = weights.unflatten(1, (shared, -1)) @ value.float().unsqueeze(2)
        ours = grouped.flatten(1, 2).transpose(1, 2)
        theirs = (output if isinstance(output, Tensor) else output[0]).float()
        same = theirs.numel() == ours.numel()
        self.misses[layer] = float((ours - theirs.reshape(ours.shape)).norm() / ours.norm()) if same else float("inf")

    def _weights(self, query: Tensor, key: Tensor, mask: Tensor | None, options: dict) -> Tensor:
        """All weights of a short pass, `[batch head query key]`."""
        n_query = query.shape[2]
        scores = _masked(query, key.float(), self._additive(mask, n_query, key), options)
        weights = attention_rows(scores, _sinks(options, query), with_weights=True).weights
        assert weights is not None
        return weights

    def _visible(self, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
        """Number of keys each query may attend to, `[batch query]`; layers that share a mask share the count."""
        known = self._counted.get(id(mask)) if mask is not None else None
        if known is not None and known[0] is mask:
            return known[1]
        n_query, n_key = query.shape[2], key.shape[2]
        if mask is None:
            first = n_key - n_query + 1
            numbers = torch.arange(first, first + n_query, device=query.device)
            count = (numbers if self.causal else torch.full_like(numbers, n_key)).expand(query.shape[0], -1)
        else:
            count = _allowed(mask)[:, 0].sum(-1).expand(query.shape[0], n_query)
            self._counted[id(mask)] = (mask, count)
        return count

    def _wait(self, layer: int, scores: Tensor, options: dict, query: Tensor) -> None:
        """Keep the scores of a single query: one reduction of many layers costs little more than that of one."""
        self._waiting[layer] = (scores, _sinks(options, query))
        if len(self._waiting) * scores.nbytes >= self.block_bytes:
            self._settle()

    def _settle(self) -> None:
        """Reduce the scores that wait, layers of one shape together."""
        alike: dict[tuple[object, ...], list[int]] = {}
        for layer, (scores, sinks) in self._waiting.items():
            alike.setdefault((scores.shape, sinks is None), []).append(layer)
        for layers in alike.values():
            scores, sinks = zip(*(self._waiting[layer] for layer in layers), strict=True)
            batch = scores[0].shape[0]
            together = None if sinks[0] is None else torch.cat([sink.expand(batch, -1, -1) for sink in sinks])
            columns = attention_rows(torch.cat(scores), together, scratch=self._scratch)
            parts = zip(*((None,) * len(layers) if c is None else c.split(batch) for c in columns), strict=True)
            self._rows |= {layer: AttentionRows(*part) for layer, part in zip(layers, parts, strict=True)}
        self._waiting.clear()

    def _reduce(self, layer: int, query: Tensor, key: Tensor, mask: Tensor | None, options: dict) -> AttentionRows:
        batch, n_heads, n_query, _ = query.shape
        n_key = key.shape[2]
        keys = key.float()
        forward_only = self._forward_only(mask, n_query, n_key, query.device)
        mask = self._additive(mask, n_query, key)
        sinks = _sinks(options, query)
        middle = self._middle_keys(n_key, query.device) if self.middle_columns is not None else None
        block = max(1, self.block_bytes // (4 * batch * n_heads * n_key))
        parts = []
        for start in range(0, n_query, block):
            queries = slice(start, min(start + block, n_query))
            seen = n_key - n_query + queries.stop if forward_only else n_key
            scores = _masked(query, keys[:, :, :seen], mask, options, queries, self._scratch)
            part = attention_rows(
                scores,
                None if sinks is None else sinks[:, :, queries],
                None if middle is None else middle[:, :seen],
                with_weights=bool(self.takers),
                scratch=self._scratch,
            )
            for taker in self.takers:
                assert part.weights is not None
                taker.add(layer, part.weights, self.seen - n_query + start, self.first_key(n_key))
            parts.append(part._replace(weights=None))
        if len(parts) == 1:
            return parts[0]
        joined = (None if column[0] is None else torch.cat(column, dim=-1) for column in zip(*parts, strict=True))
        return AttentionRows(*joined)  # type: ignore[arg-type]

    def _forward_only(self, mask: Tensor | None, n_query: int, n_key: int, device: torch.device) -> bool:
        """Whether keys behind a block of queries may be left out: no query sees a later one, and nobody wants all keys.

        Asked on the CPU only: elsewhere the answer would cost a transfer to the host.
        """
        if not self.causal or self.takers or device.type != "cpu" or n_query == 1:
            return False
        if mask is None:
            return True
        known = self._looked_at.get(id(mask))
        if known is None or known[0] is not mask:
            later = _allowed(mask[..., :n_key]).triu(n_key - n_query + 1)
            known = self._looked_at[id(mask)] = (mask, not bool(later.any()))
        return known[1]

    def _additive(self, mask: Tensor | None, n_query: int, key: Tensor) -> Tensor | None:
        """The mask for the scores, boolean (True = attend) or additive; causal where the model left it implicit."""
        n_key, device = key.shape[2], key.device
        if mask is not None:
            return mask[..., :n_key]
        if not self.causal or n_query == 1:
            return None
        return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_key - n_query)[None, None]

    def _middle_keys(self, n_key: int, device: torch.device) -> Tensor:
        """Which of the keys at hand lie in the middle third of each row's prompt, `[batch key]`."""
        assert self.middle_columns is not None
        low, high = self.middle_columns
        columns = columns_of(n_key, self.first_key(n_key), device)
        return (columns >= low.unsqueeze(-1)) & (columns < high.unsqueeze(-1))


def last_query_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, options: dict
) -> Float[Tensor, "batch head key"]:
    """The weights with which the last query attends to every key, in float32 (float64)."""
    last, n_key = query.shape[2] - 1, key.shape[2]
    visible = None if mask is None else mask[..., :n_key]
    scores = _masked(query, _wide(key), visible, options, slice(last, last + 1))
    sinks = _sinks(options, query)
    if sinks is not None:
        column = sinks[:, :, last:].unsqueeze(-1).to(scores.dtype)
        scores = torch.cat((scores, column.expand(*scores.shape[:3], 1)), dim=-1)
    return scores.softmax(-1)[:, :, 0, :n_key]


def _wide(states: Tensor) -> Tensor:
    return states if states.dtype == torch.float64 else states.float()


def _masked(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    options: dict,
    queries: slice = slice(None),
    scratch: Scratch | None = None,
) -> Tensor:
    """Scores of some queries (of all), scaled, capped, biased and masked; in `scratch` where that is given."""
    scaling = options.get("scaling")
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    scores = _scores(query[:, :, queries], key, scaling, scratch or Scratch())
    if options.get("softcap") is not None:
        scores = torch.tanh(scores / options["softcap"]) * options["softcap"]
    for bias in (options.get("position_bias"), mask):
        if bias is not None:
            scores = scores.add_(_rows_of(bias, queries)[..., : key.shape[2]])
    return scores


def _scores(query: Tensor, key: Tensor, scaling: float, scratch: Scratch) -> Float[Tensor, "batch head query key"]:
    """Scaled dot products in float32 (float64); grouped-query keys are shared by views, not repeated."""
    batch, n_heads, n_query, d_head = query.shape
    n_shared, n_key = key.shape[1:3]
    queries = _wide(query).reshape(batch * n_shared, (n_heads // n_shared) * n_query, d_head)
    keys = key.flatten(0, 1).transpose(1, 2)
    room = scratch.take("scores", (*queries.shape[:2], n_key), queries)
    # Scaled while they are multiplied: a pass less. What is in the first argument does not count.
    start = queries.new_empty(()) if room is None else room
    scores = torch.baddbmm(start, queries, keys, beta=0, alpha=scaling, out=room)
    return scores.view(batch, n_heads, n_query, n_key)


def _sinks(options: dict, query: Tensor) -> Float[Tensor, "row head query"] | None:
    """The logit of each query that takes weight but is no key: one per head, or (Inkling) one per query."""
    per_query = options.get("sinks")
    if per_query is not None:
        return per_query.float().reshape(-1, query.shape[1], query.shape[2])
    per_head = options.get("s_aux")
    return None if per_head is None else per_head.float()[None, :, None].expand(1, -1, query.shape[2])


def _allowed(mask: Tensor) -> Tensor:
    """Where a mask, boolean or additive, lets a query see a key."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _rows_of(bias: Tensor, queries: slice) -> Tensor:
    """The rows of a mask or bias that belong to some queries, as numbers to be added to their scores."""
    rows = bias[:, :, queries] if bias.shape[2] > 1 else bias
    if rows.dtype == torch.bool:
        # Adding to all scores is ten times as fast as filling some of them.
        return torch.zeros_like(rows, dtype=torch.float32).masked_fill_(~rows, LOWEST)
    return rows.float()


@contextmanager
def observing(model: nn.Module, modules: Mapping[nn.Module, tuple[AttentionObserver, int]]) -> Iterator[None]:
    """Look at what passes through the model's attention function for the length of the block, also after an error.

    `modules` gives the observer and the layer of every module that may call it.
    """
    turned = [(module, layer, o.enter_rotary) for module, (o, layer) in modules.items() if o.capture & set(ROTARY)]
    with watching_attention(model, modules), seeing_rotary_inputs(turned):
        yield
