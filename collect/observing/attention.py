"""Observes attention where it happens: a function registered with transformers' AttentionInterface.

It sees queries and keys after rotary embedding, reduces their scores in float32 on the spot, and lets the model compute
with the implementation it would use anyway. No attention map is ever kept.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .axis import columns_of
from .edges import StrongestEdges
from .summaries import AttentionRows, attention_rows

LOWEST = torch.finfo(torch.float32).min
PREFIX = "tracelake_"

_observers: "WeakKeyDictionary[nn.Module, tuple[AttentionObserver, int]]" = WeakKeyDictionary()


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
        self.start(0, None, None)

    def start(self, seen: int, middle_columns: tuple[Tensor, Tensor] | None, edges: StrongestEdges | None) -> None:
        """Forget the last pass. `seen`: columns that the stack has read when the coming pass is over.

        `middle_columns`: first and end key column of each row's middle prompt third. `edges` takes the attention
        weights of the pass, block by block.
        """
        self.seen = seen
        self.middle_columns = middle_columns
        self.edges = edges
        self.rows: dict[int, AttentionRows] = {}
        self.n_keys: dict[int, Tensor] = {}
        self.states: dict[tuple[str, int], Tensor] = {}
        self.key_lengths: dict[int, int] = {}
        self._counted: dict[int, tuple[object, Tensor]] = {}

    def skip(self, n: int) -> None:
        """Forget the first `n` queries of the last pass."""
        self.rows = {
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
        """Reduce one layer's attention; shapes `[batch head query d_head]`, keys with their own number of heads."""
        n_new = query.shape[2]
        for site, tensor in (("rot_q", query), ("rot_k", key[:, :, -n_new:]), ("v", value[:, :, -n_new:])):
            if site in self.capture:
                self.states[site, layer] = tensor.transpose(1, 2).flatten(2)
        if self.statistics:
            self.n_keys[layer] = self._visible(mask, query, key)
            self.key_lengths[layer] = key.shape[2]
            self.rows[layer] = self._reduce(layer, query, key, mask, options)

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
            allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
            count = allowed[:, 0].sum(-1).expand(query.shape[0], n_query)
            self._counted[id(mask)] = (mask, count)
        return count

    def _reduce(self, layer: int, query: Tensor, key: Tensor, mask: Tensor | None, options: dict) -> AttentionRows:
        batch, n_heads, n_query, d_head = query.shape
        n_key = key.shape[2]
        scaling = options.get("scaling")
        scaling = d_head**-0.5 if scaling is None else scaling
        keys = key.float()
        mask = self._additive(mask, n_query, n_key, query.device)
        position_bias = options.get("position_bias")
        middle = self._middle_keys(n_key, query.device) if self.middle_columns is not None else None
        block = max(1, self.block_bytes // (4 * batch * n_heads * n_key))
        parts = []
        for start in range(0, n_query, block):
            scores = _scores(query[:, :, start : start + block], keys, scaling)
            if options.get("softcap") is not None:
                scores = torch.tanh(scores / options["softcap"]) * options["softcap"]
            queries = slice(start, start + block)
            if position_bias is not None:
                scores = scores.add_(_rows_of(position_bias, queries))
            if mask is not None:
                scores = scores.add_(_rows_of(mask, queries))
            part = attention_rows(scores, options.get("s_aux"), middle, with_weights=self.edges is not None)
            if self.edges is not None and part.weights is not None:
                self.edges.add(layer, part.weights, self.seen - n_query + start, self.first_key(n_key))
            parts.append(part._replace(weights=None))
        if len(parts) == 1:
            return parts[0]
        joined = (None if column[0] is None else torch.cat(column, dim=-1) for column in zip(*parts, strict=True))
        return AttentionRows(*joined)  # type: ignore[arg-type]

    def _additive(self, mask: Tensor | None, n_query: int, n_key: int, device: torch.device) -> Tensor | None:
        """The mask for the scores, boolean (True = attend) or additive; causal where the model left it implicit."""
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


def _scores(query: Tensor, key: Tensor, scaling: float) -> Float[Tensor, "batch head query key"]:
    """Scaled dot products in float32; grouped-query keys are shared by views, not repeated."""
    batch, n_heads, n_query, d_head = query.shape
    n_shared = key.shape[1]
    grouped = (query.float() * scaling).reshape(batch, n_shared, (n_heads // n_shared) * n_query, d_head)
    return (grouped @ key.transpose(-1, -2)).view(batch, n_heads, n_query, key.shape[2])


def _rows_of(bias: Tensor, queries: slice) -> Tensor:
    """The rows of a mask or bias that belong to some queries, as numbers to be added to their scores."""
    rows = bias[:, :, queries] if bias.shape[2] > 1 else bias
    if rows.dtype == torch.bool:
        # Adding to all scores is ten times as fast as filling some of them.
        return torch.zeros_like(rows, dtype=torch.float32).masked_fill_(~rows, LOWEST)
    return rows.float()


def _observed(base: str) -> Callable:
    """The attention function registered for `base`: observe, then compute as `base` does."""

    def forward(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options):
        known = _observers.get(module)
        if known is not None:
            observer, layer = known
            observer.observe(layer, query, key, value, attention_mask, options)
        if base == "eager":
            compute = sys.modules[type(module).__module__].eager_attention_forward
        else:
            compute = ALL_ATTENTION_FUNCTIONS[base]
        return compute(module, query, key, value, attention_mask, **options)

    return forward


def registered(base: str) -> str:
    """Register our observing function over `base` ("sdpa" or "eager") and return its name for transformers."""
    name = PREFIX + base
    AttentionInterface.register(name, _observed(base))
    AttentionMaskInterface.register(name, AttentionMaskInterface()[base])
    return name


@contextmanager
def observing(model: nn.Module, modules: Mapping[nn.Module, tuple[AttentionObserver, int]]) -> Iterator[None]:
    """Switch the model to the observing attention for the length of the block, and back, also after an error.

    `modules` gives the observer and the layer of every module that may call the attention function.
    """
    before = model.config._attn_implementation  # type: ignore[union-attr]
    model.set_attn_implementation(registered(before))  # type: ignore[operator]
    _observers.update(modules)
    try:
        yield
    finally:
        for module in modules:
            _observers.pop(module, None)
        model.set_attn_implementation(before)  # type: ignore[operator]
