"""Paths from the residual stream through one attention head to a direction of the final state (definitions A12).

With attention weights and norm scales held fixed, what is written to the residual stream at position i reaches the
direction d at position T through head h of layer k as <x, c(k,h)> times a(T,i) over the scales. c(k,h) depends on
weights and direction only, and comes from vector-Jacobian products of the model's own projections.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ....lake.errors import ConfigError
from ...models.block_norms import StreamNorms, stream_norms
from ...models.model import LoadedModel
from ...models.norms import Norm
from ...observing.attention import observing
from ...observing.last_query import LastQuery
from ..attribution import pull_back

LINEAR = 1e-3
"""Largest relative deviation of values from a linear map of the normed input."""
CLOSED = {torch.float32: 1e-3, torch.float64: 2e-5}
"""Largest relative error of the closing identity on a probe, by the number format."""


@dataclass(frozen=True)
class LayerPaths:
    """One layer's heads: where they read, what they add whatever they read."""

    into: Float[Tensor, "head d_model"]
    """c(k,h): apart from the scale of the norm before the attention, of the one behind it, and of the final one."""
    constant: Float[Tensor, " head"]
    """What one unit of attention adds through biases."""
    output: float
    """What the output projection's bias adds, over the scale behind the attention."""
    behind: float
    """What the bias of a norm behind the attention adds."""


class HeadPaths:
    """c(k,h) of all layers and heads for one direction, and what every neuron writes onto them."""

    def __init__(self, loaded: LoadedModel, direction: Float[Tensor, " d_model"], *, centred: bool = True) -> None:
        """`direction` lies in the space of final-normed states; it is taken at unit length.

        Not `centred`, norms take no mean away: whoever asks for that takes a share of it away himself.
        """
        check_paths(loaded)
        self.loaded = loaded
        self.norms: StreamNorms = stream_norms(loaded)
        self.dtype = loaded.model.dtype
        self.direction = (direction.double() / direction.double().norm()).to(loaded.device)
        self.centred = centred
        self.u: Float[Tensor, " d_model"] = self._back(self.norms.final, self.direction)
        """C_f(g_f * d): the direction in front of the final norm, apart from its scale."""
        self.layers = self._layers()

    def _back(self, norm: Norm, g: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return norm.pulled_back(g) if self.centred else norm.gained(g)

    def _layers(self) -> list[LayerPaths]:
        loaded, heads = self.loaded, self.loaded.n_heads
        pulled, outputs, behinds = [], [], []
        for layer, norms in enumerate(self.norms.blocks):
            projection, _ = loaded.decoder.anatomy.module("z", layer)
            u, behind = self.u, 0.0
            if norms.behind_attention is not None:
                behind = float(u @ norms.behind_attention.bias)
                u = norms.behind_attention.pulled_back(u)
            vector, bias = pull_back(projection, width_of(projection), u.unsqueeze(0))
            pulled.append(vector[0].unflatten(-1, (heads, -1)))
            outputs.append(float(bias[0]))
            behinds.append(behind)
        normed, constants = pull_back_values(loaded, pulled)
        layers = []
        for layer, norms in enumerate(self.norms.blocks):
            before = norms.before_attention
            constant = constants[layer].double() + normed[layer].double() @ before.bias
            into = self._back(before, normed[layer].double())
            layers.append(LayerPaths(into, constant, outputs[layer], behinds[layer]))
        return layers

    def neurons(self, layer: int) -> Float[Tensor, "path neuron"]:
        """<w_n, c(k,h)> of every neuron of a layer for all heads of later layers, layer after layer."""
        later = [self.layers[k].into for k in range(layer + 1, len(self.layers))]
        return self._onto(layer, torch.cat(later)) if later else torch.zeros(0, 0)

    def direct(self, layer: int) -> Float[Tensor, " neuron"]:
        """<w_n, C_f(g_f * d)>: what a neuron writes onto the direction itself."""
        return self._onto(layer, self.u.unsqueeze(0))[0]

    def _onto(self, layer: int, targets: Float[Tensor, "target d_model"]) -> Float[Tensor, "target neuron"]:
        behind = self.norms.blocks[layer].behind_mlp
        projection, _ = self.loaded.decoder.anatomy.module("mlp_post", layer)
        targets = targets if behind is None else behind.pulled_back(targets)
        return pull_back(projection, width_of(projection), targets)[0]


def check_paths(loaded: LoadedModel) -> None:
    """ConfigError for models that have no such paths."""
    name = type(loaded.model).__name__
    if loaded.encoder is not None:
        raise ConfigError(f"{name} has an encoder: second-order effects are defined for decoder-only models.")
    if loaded.model.dtype not in CLOSED:
        raise ConfigError(f"{name} was loaded in {loaded.model.dtype}; second-order effects are computed in float32.")
    for layer in range(loaded.n_layers):
        for site in ("attn_out", "mlp_out", "z", "mlp_post"):
            loaded.decoder.anatomy.module(site, layer)


def width_of(projection: nn.Module) -> int:
    """How many elements a linear module reads."""
    known = getattr(projection, "in_features", None)
    return int(known if known is not None else projection.weight.shape[0])  # type: ignore[union-attr, arg-type]


def pull_back_values(
    loaded: LoadedModel, vectors: Sequence[Float[Tensor, "head d_value"]]
) -> tuple[list[Float[Tensor, "head d_model"]], list[Float[Tensor, " head"]]]:
    """For every layer and head the transpose of its value projection applied to a vector, and the value bias with it.

    One pass of one token per head; head h reads the values of head h // (heads / value heads).
    """
    heads = loaded.n_heads
    ids = torch.zeros(heads, 1, dtype=torch.long, device=loaded.device)
    with torch.enable_grad():
        values, leaves = values_of(loaded, ids, lambda layer, state: state.detach().clone().requires_grad_())
        pulled = []
        for layer, vector in enumerate(vectors):
            value = values[layer]
            group = torch.arange(heads, device=value.device) // (heads // value.shape[1])
            wanted = torch.zeros_like(value)
            wanted[torch.arange(heads), group, 0] = vector.to(value.dtype)
            pulled.append(torch.autograd.grad(value, leaves[layer], wanted)[0][:, 0])
    constants = []
    for vector, zero in zip(vectors, _zero_values(loaded), strict=True):
        group = torch.arange(heads, device=zero.device) // (heads // zero.shape[0])
        constants.append((zero[group] * vector.to(zero.dtype)).sum(-1))
    return pulled, constants


def _zero_values(loaded: LoadedModel) -> list[Float[Tensor, "value_head d_value"]]:
    """Each layer's values of an input of zero; ConfigError unless, but for them, values are linear in the input."""
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(loaded.d_model, generator=random).to(loaded.device, loaded.model.dtype) for _ in range(2))
    rows = torch.stack((torch.zeros_like(x), x, y, x + y)).unsqueeze(1)
    ids = torch.zeros(4, 1, dtype=torch.long, device=loaded.device)
    with torch.no_grad():
        values, _ = values_of(loaded, ids, lambda layer, state: rows)
    zeros = []
    for layer in range(loaded.n_layers):
        zero, at_x, at_y, at_both = values[layer][:, :, 0]
        miss = float((at_both - at_x - at_y + zero).norm() / (at_both - zero).norm())
        if not miss <= LINEAR:
            raise ConfigError(
                f"{type(loaded.model).__name__}: the values of layer {layer} are no linear map of the normed state "
                f"(relative difference {miss:.2g}), so that paths through its heads cannot be followed."
            )
        zeros.append(zero)
    return zeros


def values_of(
    loaded: LoadedModel, ids: Tensor, replace: Callable[[int, Tensor], Tensor]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Values `[row value_head 1 d_value]` of a pass whose attentions read what `replace(layer, input)` gives."""
    observer, leaves = LastQuery(values=True), {}

    def hook(layer: int) -> Callable:
        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            given = args[0] if args else kwargs["hidden_states"]
            leaves[layer] = replace(layer, given)
            if args:
                return (leaves[layer], *args[1:]), kwargs
            return args, kwargs | {"hidden_states": leaves[layer]}

        return before

    with observed(loaded, observer), _hooked(loaded, hook):
        loaded.decoder.module(input_ids=ids, use_cache=False)
    if len(observer.values) != loaded.n_layers:
        raise ConfigError(
            f"{type(loaded.model).__name__} does not pass its attention through transformers' interface, so that paths "
            "through its heads cannot be followed. Try --attn-implementation eager when collecting."
        )
    return observer.values, leaves


@contextmanager
def _hooked(loaded: LoadedModel, hook: Callable[[int], Callable]) -> Iterator[None]:
    handles = []
    try:
        for layer, parts in enumerate(loaded.decoder.anatomy.parts):
            assert parts.attention is not None
            handles.append(parts.attention.register_forward_pre_hook(hook(layer), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def observed(loaded: LoadedModel, observer: LastQuery) -> Iterator[None]:
    """The observer sees the attention of every layer of the decoder inside the block."""
    modules = {module: (observer, layer) for module, (_, layer) in loaded.decoder.attention_modules().items()}
    with observing(loaded.model, modules):
        yield
