"""The architectures of sparse autoencoders: parameters, activations, and the loss of a batch, in scaled units.

pre = (x - b_dec) W_enc + b_enc (no b_dec where `centred` is false), x' = a W_dec + b_dec, loss = mean over rows of
|x' - x|^2 (summed over dimensions) + term + aux. docs/sae.md has the formulas of a, term and aux.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from . import kernels
from .kernels import Code

Arch = Literal["relu", "threshold-relu", "topk", "batchtopk", "matryoshka", "jumprelu", "gated"]
ARCHS: tuple[str, ...] = get_args(Arch)
TRANSCODING = ("relu", "batchtopk", "jumprelu")
"""Architectures that may write to another site than they read."""
SPARSE = ("topk", "batchtopk", "matryoshka")
"""Architectures with a fixed number of active features, the AuxK term and sparse gradients."""
AUX_SHARE = 1 / 32
BANDWIDTH = 0.05
"""Width of the rectangle through which JumpReLU's thresholds get their gradients, in scaled units."""
FITTED_ROWS = 4_096
"""Rows of the data that the first length of the encoder is fitted on."""
FIRST_THRESHOLD = 0.1
"""Threshold that JumpReLU starts with, and the fixed one of threshold-relu."""

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Dictionary:
    """What is trained: an architecture and its sizes. The weights are a `Parameters` beside it."""

    arch: Arch
    d_in: int
    d_out: int
    d_sae: int
    k: int | None = None
    nested: tuple[int, ...] = ()
    """Widths of matryoshka's nested dictionaries, the last one being d_sae."""
    sparsity: float = 0.0
    """Weight of the penalty."""
    target_l0: float | None = None
    """Active features per row that jumprelu's penalty aims at."""
    transcoder: bool = False
    skip: bool = False
    """Whether a transcoder has a linear path beside the features."""

    @property
    def centred(self) -> bool:
        """Whether b_dec is subtracted from the input."""
        return not self.transcoder and self.arch != "threshold-relu"


@dataclass
class Losses:
    """The loss of a batch in its parts, and what was active."""

    mse: Float[Tensor, ""]
    """Mean over rows of the squared error summed over dimensions."""
    term: Float[Tensor, ""]
    aux: Float[Tensor, ""]
    reconstruction: Float[Tensor, "rows d_out"]
    active: Code
    threshold: float
    """Smallest activation of a batch's top k, of the architectures that have one."""

    @property
    def loss(self) -> Float[Tensor, ""]:
        """What is minimised."""
        return self.mse + self.term + self.aux


def first_parameters(
    shape: Dictionary,
    centre: Float[Tensor, " d_out"],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    directions: Float[Tensor, "rows d_out"] | None = None,
) -> Parameters:
    """Unit decoder rows, the encoder their transpose, b_dec the centre of the data.

    A decoder row is a random direction, plus one of `directions` (of centred data rows) where these are given: a
    random direction alone may be one in which the data does not vary, and is then never among the largest. Such rows
    lie close together and overshoot together: the encoder is shortened by `_fitting_length`.
    """
    decoder = torch.randn(shape.d_sae, shape.d_out, generator=generator, dtype=torch.float64)
    decoder /= decoder.norm(dim=1, keepdim=True)
    if directions is not None and shape.centred:
        drawn = torch.randint(len(directions), (shape.d_sae,), generator=generator)
        decoder += directions.cpu().double()[drawn]
        decoder /= decoder.norm(dim=1, keepdim=True).clamp_min(1e-8)
    encoder = decoder.T.clone()
    if directions is not None and shape.centred:
        encoder *= _fitting_length(shape, decoder, directions[:FITTED_ROWS].cpu().double())
    if shape.d_in != shape.d_out:
        encoder = torch.randn(shape.d_in, shape.d_sae, generator=generator, dtype=torch.float64) / math.sqrt(shape.d_in)
    zeros = torch.zeros(shape.d_sae)
    parameters = {"W_enc": encoder, "W_dec": decoder, "b_dec": centre.cpu().clone()}
    if shape.arch == "gated":
        parameters |= {"b_gate": zeros, "b_mag": zeros.clone(), "r_mag": zeros.clone()}
    else:
        parameters["b_enc"] = zeros
    if shape.arch == "jumprelu":
        parameters["threshold"] = torch.full((shape.d_sae,), FIRST_THRESHOLD)
    if shape.skip:
        parameters["W_skip"] = torch.zeros(shape.d_out, shape.d_in)
    return {name: value.to(dtype).contiguous() for name, value in parameters.items()}


def _fitting_length(
    shape: Dictionary, decoder: Float[Tensor, "d_sae d_out"], directions: Float[Tensor, "rows d_out"]
) -> Float[Tensor, ""]:
    """The length of encoder columns whose first reconstruction fits best in squares.

    Active are at first all positive features, or the k largest where the architecture fixes them.
    """
    pre = directions @ decoder.T
    if shape.arch in SPARSE:
        assert shape.k is not None
        reconstruction = kernels.decode(kernels.top_k(pre, shape.k), decoder)
    else:
        reconstruction = pre.relu() @ decoder
    return (reconstruction * directions).sum() / reconstruction.square().sum().clamp_min(1e-12)


def losses(
    shape: Dictionary,
    parameters: Parameters,
    x: Float[Tensor, "rows d_in"],
    target: Float[Tensor, "rows d_out"],
    *,
    dead: Tensor | None = None,
    last_threshold: float = 0.0,
    sparsity_share: float = 1.0,
    select: torch.dtype | None = None,
) -> Losses:
    """The loss of a batch with gradients to all parameters.

    `dead` marks features for the AuxK term; `sparsity_share` is how far the penalty is warmed up; `select` is the
    number format in which the top k are looked for.
    """
    centred = x - parameters["b_dec"].detach() if shape.centred else x
    if shape.arch in SPARSE:
        return _top_k_losses(shape, parameters, centred, x, target, dead, last_threshold, select)
    weight = shape.sparsity * sparsity_share
    inputs = x - parameters["b_dec"] if shape.centred else x
    if shape.arch == "gated":
        activations, term = _gated(parameters, inputs, target, weight)
    else:
        pre = inputs @ parameters["W_enc"] + parameters["b_enc"]
        if shape.arch == "relu":
            activations = pre.relu()
            term = weight * activations.sum(1).mean()
        elif shape.arch == "threshold-relu":
            activations = torch.where(pre > FIRST_THRESHOLD, pre, 0.0)
            # The source's: a mean over all units, while its squared error is a mean over all elements; see below.
            term = weight * activations.abs().mean()
        else:
            activations, term = _jump(shape, parameters, pre, weight)
    reconstruction = activations @ parameters["W_dec"] + parameters["b_dec"]
    if shape.skip:
        reconstruction = reconstruction + x @ parameters["W_skip"].T
    squared = (reconstruction - target).square().sum(1)
    mse = squared.mean() / shape.d_out if shape.arch == "threshold-relu" else squared.mean()
    return Losses(mse, term, mse.new_zeros(()), reconstruction, kernels.above(activations.detach()), 0.0)


def _gated(
    parameters: Parameters, inputs: Tensor, target: Tensor, weight: float
) -> tuple[Float[Tensor, "rows d_sae"], Float[Tensor, ""]]:
    """The gate says which features are on, the magnitude how much; the gate alone must reconstruct as well."""
    product = inputs @ parameters["W_enc"]
    gate = product + parameters["b_gate"]
    magnitude = product * parameters["r_mag"].exp() + parameters["b_mag"]
    activations = torch.where(gate > 0, magnitude.relu(), 0.0)
    opened = gate.relu()
    by_gate = opened @ parameters["W_dec"].detach() + parameters["b_dec"].detach()
    return activations, weight * opened.sum(1).mean() + (by_gate - target).square().sum(1).mean()


class _Jump(torch.autograd.Function):
    """pre where it exceeds the threshold; the threshold's gradient through a rectangle, pre's where it passes."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, pre: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        return torch.where(pre > threshold, pre, 0.0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        pre, threshold = ctx.saved_tensors  # type: ignore[attr-defined]
        near = ((pre - threshold).abs() < BANDWIDTH / 2) / BANDWIDTH
        return gradients[0] * (pre > threshold), (-threshold * near * gradients[0]).sum(0)


class _Step(torch.autograd.Function):
    """1 where pre exceeds the threshold; gradient to the threshold only, through the same rectangle."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, pre: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[None, Tensor]:
        pre, threshold = ctx.saved_tensors  # type: ignore[attr-defined]
        near = ((pre - threshold).abs() < BANDWIDTH / 2) / BANDWIDTH
        return None, (-near * gradients[0]).sum(0)


def _jump(
    shape: Dictionary, parameters: Parameters, pre: Tensor, weight: float
) -> tuple[Float[Tensor, "rows d_sae"], Float[Tensor, ""]]:
    threshold = parameters["threshold"]
    activations: Tensor = _Jump.apply(pre, threshold)  # type: ignore[assignment]
    active: Tensor = _Step.apply(pre, threshold)  # type: ignore[assignment]
    l0 = active.sum(1).mean()
    if shape.target_l0 is None:
        return activations, weight * l0
    return activations, 2 * weight * (l0 - shape.target_l0).square() / shape.target_l0


def _top_k_losses(
    shape: Dictionary,
    parameters: Parameters,
    centred: Tensor,
    x: Tensor,
    target: Tensor,
    dead: Tensor | None,
    last_threshold: float,
    select: torch.dtype | None,
) -> Losses:
    encoder, bias = parameters["W_enc"], parameters["b_enc"]
    centre = parameters["b_dec"] if shape.centred else None
    assert shape.k is not None
    with torch.no_grad():
        pre = _pre_activations(centred, encoder, bias, select)
        if shape.arch == "topk":
            chosen, threshold = kernels.top_k(pre, shape.k), 0.0
        else:
            chosen, threshold = kernels.batch_top_k(pre, shape.k, last_threshold)
        if select is not None:
            chosen = _exact_values(chosen, centred, encoder, bias)
    code = kernels.encode_at(chosen, centred, encoder, bias, centre)
    mse, reconstruction = _nested_errors(shape, parameters, code, x, target)
    aux = mse.new_zeros(())
    if dead is not None and bool(dead.any()):
        residual = (target - reconstruction).detach()
        aux = AUX_SHARE * _aux(shape, parameters, pre, centred, centre, residual, dead)
    active = Code(code.starts, code.features, code.values.detach(), shape.d_sae)
    return Losses(mse, mse.new_zeros(()), aux, reconstruction, active, threshold)


def _pre_activations(centred: Tensor, encoder: Tensor, bias: Tensor, select: torch.dtype | None) -> Tensor:
    if select is None:
        return torch.addmm(bias, centred, encoder)
    return torch.addmm(bias.to(select), centred.to(select), encoder.to(select)).to(centred.dtype)


def _exact_values(code: Code, centred: Tensor, encoder: Tensor, bias: Tensor) -> Code:
    """The values of chosen features in the full number format; what is not positive there is not active."""
    values = (centred[code.rows] * encoder.T[code.features]).sum(1) + bias[code.features]
    return code.with_values(values).kept(values > 0)


def _nested_errors(
    shape: Dictionary, parameters: Parameters, code: Code, x: Tensor, target: Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows d_out"]]:
    """The error of the whole dictionary; of matryoshka the sum over every nested width."""
    decoder = parameters["W_dec"]
    base = parameters["b_dec"] + (x @ parameters["W_skip"].T if shape.skip else 0.0)
    if shape.arch != "matryoshka":
        reconstruction = kernels.decode(code, decoder) + base
        return (reconstruction - target).square().sum(1).mean(), reconstruction
    total, reconstruction, first = target.new_zeros(()), base, 0
    for width in shape.nested:
        piece = code.between(first, width)
        reconstruction = reconstruction + kernels.decode(piece, decoder[first:width])
        total = total + (reconstruction - target).square().sum(1).mean()
        first = width
    return total, reconstruction


def _aux(
    shape: Dictionary,
    parameters: Parameters,
    pre: Tensor,
    centred: Tensor,
    centre: Tensor | None,
    residual: Float[Tensor, "rows d_out"],
    dead: Tensor,
) -> Float[Tensor, ""]:
    """Error of the d/2 best dead features on the residual, over the residual's variance."""
    places = dead.nonzero().squeeze(1)
    best = kernels.top_k(pre[:, places], min(len(places), max(shape.d_out // 2, 1)))
    code = Code(best.starts, places[best.features], best.values, shape.d_sae)
    code = kernels.encode_at(code, centred, parameters["W_enc"], parameters["b_enc"], centre)
    explained = kernels.decode(code, parameters["W_dec"])
    variance = (residual - residual.mean(0)).square().sum(1).mean()
    return (explained - residual).square().sum(1).mean() / variance.clamp_min(torch.finfo(variance.dtype).tiny)


@torch.no_grad()
def before_step(shape: Dictionary, parameters: Parameters) -> None:
    """Take out of W_dec's gradient what would only change the length of its rows."""
    if shape.arch == "threshold-relu":
        return
    decoder, gradient = parameters["W_dec"], parameters["W_dec"].grad
    assert gradient is not None
    gradient.sub_((gradient * decoder).sum(1, keepdim=True) * decoder)


@torch.no_grad()
def after_step(shape: Dictionary, parameters: Parameters, step: int) -> None:
    """Decoder rows to unit length (threshold-relu: every 100 steps, as its source does), thresholds to 0 or more."""
    decoder = parameters["W_dec"]
    if shape.arch != "threshold-relu" or step % 100 == 0:
        decoder.div_(decoder.norm(dim=1, keepdim=True).clamp_min(1e-8))
    if "threshold" in parameters:
        parameters["threshold"].clamp_min_(0.0)
