"""Observes attention where it happens: a function registered with transformers' AttentionInterface.

It sees queries and keys after rotary embedding, reduces their scores in float32 on the spot, and lets the model compute
with the implementation it would use anyway. No attention map is ever kept.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .edges import StrongestEdges
from .summaries import AttentionRows, attention_rows

LOWEST = torch.finfo(torch.float32).min
PREFIX = "tracelake_"

_observers: "WeakKeyDictionary[nn.Module, tuple[AttentionObserver, int]]" = WeakKeyDictionary()


class AttentionObserver:
    """Collects what every layer's heads did during one forward pass; `read` after it, `start` before the next.

    `block_bytes` bounds the score block that is alive at one time; queries are taken in blocks of that size.
    """

    def __init__(self, n_layers: int, *, statistics: bool, capture: frozenset[str], block_bytes: int) -> None:
        self.n_layers = n_layers
        self.statistics = statistics
        self.capture = capture
        self.block_bytes = block_bytes
        self.start(None, None)

    def start(self, middle_columns: tuple[Tensor, Tensor] | None, edges: StrongestEdges | None) -> None:
        """Forget the last pass. `middle_columns`: first and end padded column of each row's middle prompt third.

        `edges` takes the attention weights of the pass, block by block.
        """
        self.middle_columns = middle_columns
        self.edges = edges
        self.rows: dict[int, AttentionRows] = {}
        self.n_keys: dict[int, Tensor] = {}
        self.states: dict[tuple[str, int], Tensor] = {}
        self.key_lengths: dict[int, int] = {}
        self._counted: dict[int, tuple[object, Tensor]] = {}
        self.seen = 0

    def observe(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict
    ) -> None:
        """Reduce one layer's attention; shapes `[batch head query d_head]`, keys with their own number of heads."""
        n_new = query.shape[2]
        for site, tensor in (("rot_q", query), ("rot_k", key[:, :, -n_new:]), ("v", value[:, :, -n_new:])):
            if site in self.capture:
                self.states[site, layer] = tensor.transpose(1, 2).flatten(2)
        if self.statistics:
            bias = _additive(mask, query, key, options.get("position_bias"))
            self.n_keys[layer] = self._visible(mask, query, key)
            self.key_lengths[layer] = key.shape[2]
            self.rows[layer] = self._reduce(layer, query, key, bias, options)

    def _visible(self, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
        """Number of keys each query may attend to, `[batch query]`; layers that share a mask share the count."""
        known = self._counted.get(id(mask)) if mask is not None else None
        if known is not None and known[0] is mask:
            return known[1]
        n_query, n_key = query.shape[2], key.shape[2]
        if mask is None:
            first = n_key if n_query == 1 else n_key - n_query + 1
            count = torch.arange(first, first + n_query, device=query.device).expand(query.shape[0], -1)
        else:
            allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
            count = allowed[:, 0].sum(-1).expand(query.shape[0], -1)
            self._counted[id(mask)] = (mask, count)
        return count

    def _reduce(self, layer: int, query: Tensor, key: Tensor, bias: Tensor | None, options: dict) -> AttentionRows:
        batch, n_heads, n_query, d_head = query.shape
        n_key = key.shape[2]
        scaling = options.get("scaling")
        scaling = d_head**-0.5 if scaling is None else scaling
        keys = key.float()
        middle = self._middle_keys(n_key, query.device) if self.middle_columns is not None else None
        block = max(1, self.block_bytes // (4 * batch * n_heads * n_key))
        parts = []
        for start in range(0, n_query, block):
            scores = _scores(query[:, :, start : start + block], keys, scaling)
            if options.get("softcap") is not None:
                scores = torch.tanh(scores / options["softcap"]) * options["softcap"]
            if bias is not None:
                rows = bias[:, :, start : start + block]
                if rows.dtype == torch.bool:
                    # Adding to all scores is ten times as fast as filling some of them.
                    rows = torch.zeros_like(rows, dtype=torch.float32).masked_fill_(~rows, LOWEST)
                scores = scores.add_(rows)
            part = attention_rows(scores, options.get("s_aux"), middle, with_weights=self.edges is not None)
            if self.edges is not None and part.weights is not None:
                self.edges.add(layer, part.weights, self.seen - n_query + start, self.seen - n_key)
            parts.append(part._replace(weights=None))
        if len(parts) == 1:
            return parts[0]
        joined = (None if column[0] is None else torch.cat(column, dim=-1) for column in zip(*parts, strict=True))
        return AttentionRows(*joined)  # type: ignore[arg-type]

    def _middle_keys(self, n_key: int, device: torch.device) -> Tensor:
        """Which of the keys at hand lie in the middle third of each row's prompt, `[batch key]`."""
        assert self.middle_columns is not None
        low, high = self.middle_columns
        columns = torch.arange(self.seen - n_key, self.seen, device=device)
        return (columns >= low.unsqueeze(-1)) & (columns < high.unsqueeze(-1))


def _scores(query: Tensor, key: Tensor, scaling: float) -> Float[Tensor, "batch head query key"]:
    """Scaled dot products in float32; grouped-query keys are shared by views, not repeated."""
    batch, n_heads, n_query, d_head = query.shape
    n_shared = key.shape[1]
    grouped = (query.float() * scaling).reshape(batch, n_shared, (n_heads // n_shared) * n_query, d_head)
    return (grouped @ key.transpose(-1, -2)).view(batch, n_heads, n_query, key.shape[2])


def _additive(mask: Tensor | None, query: Tensor, key: Tensor, position_bias: Tensor | None) -> Tensor | None:
    """One mask for the scores: boolean (True = attend) or additive float, causal where the model left it implicit."""
    n_query, n_key = query.shape[2], key.shape[2]
    if mask is None and n_query > 1:
        ones = torch.ones(n_query, n_key, dtype=torch.bool, device=query.device)
        mask = ones.tril(n_key - n_query)[None, None]
    if mask is not None:
        mask = mask[..., :n_key]
        if mask.dtype != torch.bool:
            mask = mask.float()
    if position_bias is None:
        return mask
    bias = position_bias.float()
    if mask is None:
        return bias
    return torch.where(mask, bias, LOWEST) if mask.dtype == torch.bool else bias + mask


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
def observing(model: nn.Module, blocks: nn.ModuleList, observer: AttentionObserver) -> Iterator[None]:
    """Switch the model to the observing attention for the length of the block, and back, also after an error."""
    before = model.config._attn_implementation  # type: ignore[union-attr]
    model.set_attn_implementation(registered(before))  # type: ignore[operator]
    modules = {module: (observer, layer) for layer, block in enumerate(blocks) for module in block.modules()}
    _observers.update(modules)
    try:
        yield
    finally:
        for module in modules:
            _observers.pop(module, None)
        model.set_attn_implementation(before)  # type: ignore[operator]
