"""One pass over a batch of stored sequences, with everything kept that paths to its last column hold fixed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.sites.anatomy import block_input, first_tensor
from ...observing.last_query import LastQuery
from ...stored_sequences import StoredBatch, computing
from .head_paths import HeadPaths, observed


@dataclass
class FrozenPass:
    """Attention of the last query and norm scales; column T is the last one of every row."""

    weights: list[Float[Tensor, "row head column"]]
    """a(T,i) of each layer."""
    before: list[Float[Tensor, "row column"]]
    """s_k(i): the scale of the norm before each layer's attention."""
    behind: list[Float[Tensor, " row"] | None]
    """The scale at T of a norm behind each layer's attention."""
    behind_mlp: list[Float[Tensor, "row column"] | None]
    end: Float[Tensor, " row"]
    """s_f: the scale of the final norm at T."""
    final: Float[Tensor, "row d_model"]
    """The final-normed state at T."""
    real: Float[Tensor, "row column"]
    """1 for tokens, 0 for padding."""
    means: list[Float[Tensor, "row column"]] = field(default_factory=list)
    """Mean over the width of what each layer's attention norms."""
    end_mean: Float[Tensor, " row"] = field(default_factory=lambda: torch.zeros(0))
    """The same of what the final norm reads at T."""
    mlp_post: dict[int, Float[Tensor, "row column neuron"]] = field(default_factory=dict)
    """p(i,n) of each layer."""
    states: dict[str, list[Tensor]] = field(default_factory=dict)
    """Where asked for: resid_pre of every block, and what its attention and MLP add, and the last block's output."""

    def paths(self, layer: int) -> Float[Tensor, "row path column"]:
        """B(k,h,i) for all heads of later layers: a(T,i) over all scales on the way out of that layer's MLP."""
        if layer + 1 >= len(self.weights):
            return self.end.new_zeros(len(self.end), 0, self.real.shape[1])
        return torch.cat([self.into(k) for k in range(layer + 1, len(self.weights))], dim=1) * self._out(layer)

    def into(self, layer: int) -> Float[Tensor, "row head column"]:
        """B(k,h,i) of one layer's heads, for what stands in the residual stream."""
        behind = self.behind[layer]
        end = self.end if behind is None else self.end * behind
        scale = self.before[layer].unsqueeze(1) * end[:, None, None]
        return torch.where(self.real.unsqueeze(1) > 0, self.weights[layer] / scale, 0.0)

    def _out(self, layer: int) -> Float[Tensor, "row 1 column"]:
        scale = self.behind_mlp[layer]
        return self.real.unsqueeze(1) if scale is None else (self.real / scale).unsqueeze(1)

    def direct_scale(self, layer: int) -> Float[Tensor, " row"]:
        """What a neuron's own output at T is divided by on its way to the final state."""
        scale = self.behind_mlp[layer]
        return self.end if scale is None else self.end * scale[:, -1]


def read_frozen(
    paths: HeadPaths,
    batch: StoredBatch,
    *,
    keep_states: bool = False,
    on_neurons: Callable[[int, Tensor], None] | None = None,
) -> FrozenPass:
    """Read the batch; neurons are kept, or given to `on_neurons` layer by layer as they are computed."""
    recorder = _Recorder(paths, keep_states, on_neurons)
    observer = LastQuery()
    with computing(), observed(paths.loaded, observer), recorder.attached():
        final = batch.read()[:, -1]
    columns = torch.arange(batch.width, device=final.device)
    real = (columns >= torch.from_numpy(batch.pads).to(final.device).unsqueeze(-1)).to(final.dtype)
    n_layers = paths.loaded.n_layers
    if on_neurons is None and bool((real == 0).any()):
        # Padding may hold anything, also NaN, which zero weights would not take away.
        recorder.neurons = {k: p.masked_fill(real.unsqueeze(-1) == 0, 0.0) for k, p in recorder.neurons.items()}
    return FrozenPass(
        weights=[observer.weights[k] for k in range(n_layers)],
        before=[recorder.before[k] for k in range(n_layers)],
        behind=[recorder.behind.get(k) for k in range(n_layers)],
        behind_mlp=[recorder.behind_mlp.get(k) for k in range(n_layers)],
        end=recorder.end[0],
        final=final,
        real=real,
        means=[recorder.means[k] for k in range(n_layers)],
        end_mean=recorder.end_mean[0],
        mlp_post=recorder.neurons,
        states=recorder.states,
    )


class _Recorder:
    """Hooks that reduce states to norm scales as they are computed."""

    def __init__(self, paths: HeadPaths, keep_states: bool, on_neurons: Callable[[int, Tensor], None] | None) -> None:
        self.paths, self.anatomy = paths, paths.loaded.decoder.anatomy
        self.keep_states, self.on_neurons = keep_states, on_neurons
        self.before: dict[int, Tensor] = {}
        self.means: dict[int, Tensor] = {}
        self.end_mean: list[Tensor] = []
        self.behind: dict[int, Tensor] = {}
        self.behind_mlp: dict[int, Tensor] = {}
        self.end: list[Tensor] = []
        self.neurons: dict[int, Tensor] = {}
        self.states: dict[str, list[Tensor]] = {"resid_pre": [], "attn_out": [], "mlp_out": [], "end": []}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The hooks are in place inside the block only."""
        with ExitStack() as entered:
            for layer in range(len(self.anatomy.blocks)):
                for handle in self._hooks(layer):
                    entered.callback(handle.remove)
            last = self.anatomy.blocks[-1].register_forward_hook(self._at_end)
            entered.callback(last.remove)
            yield

    def _hooks(self, layer: int) -> Iterator:
        norms, parts = self.paths.norms.blocks[layer], self.anatomy.parts[layer]
        yield self.anatomy.blocks[layer].register_forward_pre_hook(
            lambda m, args, kwargs: self._enter(layer, block_input(args, kwargs)), with_kwargs=True
        )
        if norms.behind_attention is not None and parts.attention is not None:
            yield parts.attention.register_forward_hook(
                lambda m, args, out: self.behind.__setitem__(
                    layer,
                    self.paths.norms.blocks[layer].behind_attention.scale(first_tensor(out)[:, -1]),  # type: ignore[union-attr]
                )
            )
        if norms.behind_mlp is not None and parts.mlp is not None:
            yield parts.mlp.register_forward_hook(
                lambda m, args, out: self.behind_mlp.__setitem__(
                    layer,
                    self.paths.norms.blocks[layer].behind_mlp.scale(first_tensor(out)),  # type: ignore[union-attr]
                )
            )
        down, _ = self.anatomy.module("mlp_post", layer)
        yield down.register_forward_pre_hook(lambda m, args: self._neurons(layer, args[0]))
        if self.keep_states:
            for site in ("attn_out", "mlp_out"):
                module, _ = self.anatomy.module(site, layer)
                yield module.register_forward_hook(self._keep(site))

    def _keep(self, site: str) -> Callable:
        return lambda module, args, out: self.states[site].append(first_tensor(out).clone())

    def _enter(self, layer: int, state: Tensor) -> None:
        self.before[layer] = self.paths.norms.blocks[layer].before_attention.scale(state)
        self.means[layer] = state.mean(-1)
        if self.keep_states:
            self.states["resid_pre"].append(state.clone())

    def _neurons(self, layer: int, neurons: Tensor) -> None:
        if self.on_neurons is None:
            self.neurons[layer] = neurons
        else:
            self.on_neurons(layer, neurons)

    def _at_end(self, module: object, args: tuple, output: object) -> None:
        state = first_tensor(output)[:, -1]
        self.end.append(self.paths.norms.final.scale(state))
        self.end_mean.append(state.mean(-1))
        if self.keep_states:
            self.states["end"].append(state.clone())


def closing_error(paths: HeadPaths, frozen: FrozenPass) -> float:
    """Largest relative error of the closing identities (A12 c) on a pass whose states were kept.

    With the residual stream itself as source the paths give what every attention adds to the direction, and embedding,
    attention and MLP together give the final state's inner product with it.
    """
    u, norms = paths.u, paths.norms
    errors, total = [], _project(frozen.states["resid_pre"][0][:, -1], u, frozen.end)
    for k, layer in enumerate(paths.layers):
        x = frozen.states["resid_pre"][k].double()
        reached = torch.einsum(
            "bhi,bid,hd->b", frozen.into(k).double(), torch.where(frozen.real.unsqueeze(-1) > 0, x, 0.0), layer.into
        )
        behind = frozen.behind[k]
        end = frozen.end.double() if behind is None else frozen.end.double() * behind.double()
        weight = torch.where(frozen.real.unsqueeze(1) > 0, frozen.weights[k].double(), 0.0).sum(-1)
        constant = (weight @ layer.constant + layer.output) / end + layer.behind / frozen.end.double()
        attended = _project(frozen.states["attn_out"][k][:, -1], u, frozen.end)
        errors.append((reached + constant - attended).abs() / _size(frozen.states["attn_out"][k][:, -1], u, frozen.end))
        total = total + attended + _project(frozen.states["mlp_out"][k][:, -1], u, frozen.end)
    wanted = (frozen.final.double() - norms.final.bias) @ paths.direction
    errors.append((total - wanted).abs() / (frozen.final.double() - norms.final.bias).norm(dim=-1))
    return float(torch.stack(errors).max())


def _project(state: Tensor, u: Tensor, end: Tensor) -> Tensor:
    return state.double() @ u / end.double()


def _size(state: Tensor, u: Tensor, end: Tensor) -> Tensor:
    return (state.double().norm(dim=-1) * u.norm() / end.double()).clamp_min(1e-30)
