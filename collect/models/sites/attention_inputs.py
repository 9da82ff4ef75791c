"""How queries, keys and values come to the attention function of each block; tried with two short passes.

An edit needs to know: keys and values that a cache holds are changed where they enter it, all others where the
attention function is called.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ....lake.errors import ConfigError
from ....lake.values import Json
from .attention_calls import Output, watching_attention
from .cache_entries import changing_entries
from .rotary_calls import is_rotation, seeing_rotary_inputs, turns
from .site_names import ROTARY_SITES

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What architectures raise that do not know our attention function, or cannot read through a cache."""
STORED_SITES = ("k", "rot_k", "v")


@dataclass
class LayerInputs:
    """What one block gave to its rotary embedding, its cache and its attention function in one pass."""

    entered: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    stored: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    attended: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    failed: bool = False
    """Whether the pass raised."""

    def enter(self, layer: int, query: Tensor, key: Tensor) -> None:
        """What goes into the rotary embedding."""
        self.entered.append((query, key))

    def store(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """What goes into the cache, unchanged."""
        self.stored.append((key, value))
        return key, value

    def observe(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Json
    ) -> None:
        """What goes into the attention function."""
        self.attended.append((query, key, value))

    def prove(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Json, output: Output
    ) -> None:
        """What comes out is no input."""


@dataclass(frozen=True)
class AttentionInputs:
    """What can be changed of the queries, keys and values of one stack."""

    model: str
    reasons: Mapping[tuple[str, int], str]
    """Why a site of a layer cannot be changed, where it cannot."""
    heads: Mapping[tuple[str, int], tuple[int, int]]
    """How many heads a site has in a layer, and how wide each is."""

    def shape(self, site: str, layer: int) -> tuple[int, int]:
        """Heads of a site and the width of each; ConfigError if it cannot be changed."""
        why = self.reasons.get((site, layer))
        if why is not None:
            raise ConfigError(f"Site {site} of layer {layer} cannot be edited: {self.model} {why}. Edit z or attn_out.")
        return self.heads[site, layer]


def attention_inputs(
    model: nn.Module,
    blocks: nn.ModuleList,
    modules: Mapping[nn.Module, int],
    passes: tuple[Callable[[], object], Callable[[], object] | None],
) -> AttentionInputs:
    """Run a pass without a cache and one through a cache (None: the stack has none) and see what comes where.

    `modules`: the layer of every module that may call the attention function for self-attention.
    """
    plain = _seen(model, blocks, modules, passes[0])
    cached = None if passes[1] is None else _seen(model, blocks, modules, passes[1])
    reasons: dict[tuple[str, int], str] = {}
    heads: dict[tuple[str, int], tuple[int, int]] = {}
    shared = "" if cached is None else _sharing_reason(cached)
    for layer, layer_inputs in enumerate(plain):
        for site, why in _reasons(layer_inputs, None if cached is None else cached[layer], shared, turns(model)):
            if why:
                reasons[site, layer] = why
            else:
                query, key, value = layer_inputs.attended[0]
                states = {"q": query, "rot_q": query, "v": value}.get(site, key)
                heads[site, layer] = (states.shape[1], states.shape[3])
    return AttentionInputs(type(model).__name__, reasons, heads)


def _seen(
    model: nn.Module, blocks: nn.ModuleList, modules: Mapping[nn.Module, int], run: Callable[[], object]
) -> list[LayerInputs]:
    """What every block gave in one pass."""
    layers = [LayerInputs() for _ in blocks]
    try:
        with _watched(model, blocks, modules, layers), torch.no_grad():
            run()
    except FAILURES:
        return [LayerInputs(failed=True) for _ in blocks]
    return layers


@contextmanager
def _watched(
    model: nn.Module, blocks: nn.ModuleList, modules: Mapping[nn.Module, int], layers: list[LayerInputs]
) -> Iterator[None]:
    with ExitStack() as entered:
        watched = {module: (layers[layer], layer) for module, layer in modules.items()}
        entered.enter_context(watching_attention(model, watched))
        rotary = [(module, layer, layers[layer].enter) for module, layer in modules.items()]
        entered.enter_context(seeing_rotary_inputs(rotary))
        for block, seen in zip(blocks, layers, strict=True):
            entered.enter_context(changing_entries(block, seen.store))
        yield


def _sharing_reason(layers: list[LayerInputs]) -> str:
    """What one layer computes and another reads too is not handed from one to the other where we could change it."""
    borrowing = [str(number) for number, seen in enumerate(layers) if seen.attended and not seen.stored]
    return f"has layers that store no keys and values of their own ({', '.join(borrowing)})" if borrowing else ""


def _reasons(
    plain: LayerInputs, cached: LayerInputs | None, shared: str, has_rotary: bool
) -> Iterator[tuple[str, str]]:
    """Every site of a layer with what forbids to change it; empty where nothing does."""
    attention, stored = _attention_reason(plain, cached), shared or _stored_reason(plain, cached)
    yield "rot_q", attention
    yield "rot_k", attention or stored
    yield "v", attention or stored
    for number, site in enumerate(ROTARY_SITES):
        rotary = "" if attention else _rotary_reason(plain, number, has_rotary)
        yield site, attention or (stored if site in STORED_SITES else "") or rotary


def _attention_reason(plain: LayerInputs, cached: LayerInputs | None) -> str:
    passes = [plain] if cached is None else [plain, cached]
    if any(one.failed for one in passes):
        return "cannot be read through transformers' attention interface and with a cache of its own"
    if not all(one.attended for one in passes):
        return "does not pass the attention of this layer through transformers' interface"
    if any(len(one.attended) > 1 for one in passes):
        return "calls the attention of this layer several times"
    return ""


def _stored_reason(plain: LayerInputs, cached: LayerInputs | None) -> str:
    """Keys and values must be the cache's own, and nothing else among them."""
    if not plain.attended:
        return ""
    query, key, value = plain.attended[0]
    if not query.shape[2] == key.shape[2] == value.shape[2]:
        return "attends to keys that belong to no token"
    if cached is None or not cached.attended:
        return ""
    if len(cached.stored) != 1:
        return "stores the keys and values of this layer several times"
    n_new, seen = cached.attended[0][0].shape[2], cached.attended[0][1:]
    same = all(_equal(ours, theirs[:, :, -n_new:]) for ours, theirs in zip(cached.stored[0], seen, strict=True))
    return "" if same else "stores something else than the keys and values that it attends with"


def _rotary_reason(plain: LayerInputs, number: int, has_rotary: bool) -> str:
    """What enters the rotary embedding must be all of what the attention function sees, turned."""
    after = plain.attended[0][number]
    if not plain.entered:
        return "has a rotary embedding that it does not hand both queries and keys to" if has_rotary else ""
    whole = len(plain.entered) == 1 and plain.entered[0][number].shape == after.shape
    if whole and is_rotation(plain.entered[0][number], after):
        return ""
    return "does more than turn what it hands to its rotary embedding; use rot_q and rot_k (after it)"


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and bool(torch.equal(ours, theirs))
