"""An autoencoder to be used: weights in the model's own units, as in its folder, and what they do to vectors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...lake.errors import UsageError
from ...lake.exchange.sae_weights import LAYER_NORM_EPS
from ...lake.values import JsonView
from . import kernels
from .architecture import FIRST_THRESHOLD, Dictionary, Parameters
from .kernels import Code

Vectors = Float[Tensor, "rows d_in"] | Float[np.ndarray, "rows d_in"]
"""Vectors of torch, or as `lake.vectors` gives them."""
Activation = Literal["relu", "topk", "jumprelu", "gated"]


@dataclass(frozen=True)
class Sae:
    """Weights W_enc [d_in, d_sae], W_dec [d_sae, d_out] and biases; which activation is computed from them."""

    sae_id: str
    activation: Activation
    weights: Mapping[str, Tensor]
    centred: bool
    """Whether b_dec is subtracted from the input."""
    k: int | None = None
    norm: str = "none"
    """What is done to each vector first and undone behind the decoder: `none`, or one of `PER_TOKEN`."""
    run_id: str = ""
    about: JsonView | None = None
    """Where it reads and writes, and where it comes from: layer, site, to_site, model."""

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.weights["W_enc"].shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.weights["W_enc"].shape[1]

    def to(self, device: str) -> "Sae":
        """The same on another device."""
        return replace(self, weights={name: value.to(device) for name, value in self.weights.items()})

    @torch.no_grad()
    def encode(self, x: Vectors) -> Code:
        """The active features of each row."""
        x, weights = self._here(x), self.weights
        shift, read, _ = self._per_token(x)
        x = x if self.norm == "none" else (x - shift) / read
        centred = x - weights["b_dec"] if self.centred else x
        product = centred @ weights["W_enc"]
        if self.activation == "gated":
            magnitude = product * weights["r_mag"].exp() + weights["b_mag"]
            return kernels.above(torch.where(product + weights["b_gate"] > 0, magnitude.relu(), 0.0))
        pre = product + weights["b_enc"]
        if self.activation == "topk":
            assert self.k is not None
            return kernels.top_k(pre, self.k)
        if self.activation == "jumprelu":
            return kernels.above(torch.where(pre > weights["threshold"], pre, 0.0))
        return kernels.above(pre)

    @torch.no_grad()
    def decode(self, code: Code, x: Vectors) -> Float[Tensor, "rows d_out"]:
        """What the active features reconstruct (with the linear path of x, where there is one)."""
        x = self._here(x)
        reconstruction = kernels.decode(code, self.weights["W_dec"]) + self.weights["b_dec"]
        if self.norm != "none":
            shift, _, written = self._per_token(x)
            return reconstruction * written + shift
        return reconstruction + x @ self.weights["W_skip"].T if "W_skip" in self.weights else reconstruction

    def _per_token(self, x: Float[Tensor, "rows d_in"]) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
        """What each vector is shifted and divided by, and what its reconstruction is times: see `SaeWeights`."""
        if self.norm == "constant_norm_rescale":
            length = x.norm(dim=1, keepdim=True) / self.d_in**0.5
            length = length.clamp_min(torch.finfo(x.dtype).tiny)
            return 0.0, length, length
        if self.norm == "layer_norm":
            spread = x.std(dim=1, keepdim=True)
            return x.mean(dim=1, keepdim=True), spread + LAYER_NORM_EPS, spread
        return 0.0, 1.0, 1.0

    def _here(self, x: Vectors) -> Float[Tensor, "rows d_in"]:
        """An array as a tensor of the type of the weights and beside them; UsageError for another width."""
        if not isinstance(x, Tensor):
            read = self.weights["W_enc"]
            x = torch.from_numpy(np.ascontiguousarray(x)).to(read.device, read.dtype)
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise UsageError(f"{self.sae_id} reads vectors [rows, {self.d_in}], not {list(x.shape)}.")
        return x

    def reconstruct(self, x: Vectors) -> Float[Tensor, "rows d_out"]:
        """Encode and decode."""
        return self.decode(self.encode(x), x)


@torch.no_grad()
def fold(
    shape: Dictionary, parameters: Parameters, scale: float, out_scale: float, threshold: float, sae_id: str
) -> Sae:
    """The trained parameters with the scales of the data in them: activations, thresholds and biases in model units.

    With s x in place of x: pre(s x) = s ((x - b_dec / s) W_enc + b_enc / s), so dividing what is added by s gives
    activations a / s, and a / s times W_dec s / s_out is the reconstruction in model units. `threshold` is the one of
    batchtopk and matryoshka, in scaled units.
    """
    held = {name: value.detach().cpu().float() for name, value in parameters.items()}
    weights = {"W_enc": held["W_enc"], "W_dec": held["W_dec"] * (scale / out_scale), "b_dec": held["b_dec"] / out_scale}
    for name in ("b_enc", "b_gate", "b_mag"):
        if name in held:
            weights[name] = held[name] / scale
    if "r_mag" in held:
        weights["r_mag"] = held["r_mag"]
    if shape.skip:
        weights["W_skip"] = held["W_skip"] * (scale / out_scale)
    activation: Activation = "jumprelu"
    if shape.arch == "jumprelu":
        weights["threshold"] = held["threshold"] / scale
    elif shape.arch == "threshold-relu":
        weights["threshold"] = torch.full((shape.d_sae,), FIRST_THRESHOLD / scale)
    elif shape.arch in ("batchtopk", "matryoshka"):
        weights["threshold"] = torch.full((shape.d_sae,), threshold / scale)
    else:
        activation = "gated" if shape.arch == "gated" else "topk" if shape.arch == "topk" else "relu"
    weights = {name: value.contiguous() for name, value in weights.items()}
    return Sae(sae_id, activation, weights, shape.centred, shape.k if shape.arch == "topk" else None)
