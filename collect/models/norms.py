"""What a norm computes: x -> gain * C(x) / s + bias, its form found by trying it on the module.

LayerNorm: C takes the mean away, s = sqrt(variance + epsilon). RMSNorm: C leaves x as it is, s = sqrt(mean square +
epsilon). Gemma's gain is 1 + its weight; what a parameter means is never assumed, only seen in what comes out.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...lake.errors import ConfigError

LARGE, SMALL = 1e4, 1e-6
"""Sizes of states beside which an epsilon is nothing, and which are nothing beside an epsilon."""
TOLERANCE = 1e-4
"""Largest relative difference between the module and the form that was found."""


@dataclass(frozen=True)
class Norm:
    """The form of one norm; `gain` and `bias` in float64."""

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool
    epsilon: float
    is_identity: bool = False
    """There is no norm: scale 1."""

    @classmethod
    def none(cls, width: int, device: torch.device | None = None) -> "Norm":
        """Where nothing is normed."""
        ones = torch.ones(width, dtype=torch.float64, device=device)
        return cls(ones, torch.zeros_like(ones), centred=False, epsilon=0.0, is_identity=True)

    def centre(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """C(x): x without its mean, or x. C is its own transpose."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "..."]:
        """s of each state, by which it is divided; in at least float32."""
        wide = x if x.dtype == torch.float64 else x.float()
        if self.is_identity:
            return torch.ones_like(wide[..., 0])
        return (self.centre(wide).square().mean(-1) + self.epsilon).sqrt()

    def gained(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """gain * x."""
        return self.gain.to(x.dtype) * x

    def frozen(self, x: Float[Tensor, "... d_model"], scale: Float[Tensor, "..."]) -> Float[Tensor, "... d_model"]:
        """gain * C(x) / s for a part x of a state whose scale is given: linear in x, without the bias."""
        return self.gained(self.centre(x)) / scale.unsqueeze(-1)

    def pulled_back(self, g: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """C(gain * g): what a direction behind the norm is in front of it, apart from the scale."""
        return self.centre(self.gained(g))


def norm_form(module: nn.Module | None, width: int, device: torch.device) -> Norm:
    """The form of a norm module (None: no norm), found by trying; ConfigError if it computes something else."""
    if module is None or isinstance(module, nn.Identity):
        return Norm.none(width, device)
    tried = _Tried(module, width, device)
    bias = tried(torch.zeros(width))
    centred = tried.is_centred(bias)
    shape = _alternating(width)
    flat = shape - shape.mean() if centred else shape
    large = tried(LARGE * shape) - bias
    gain = large * flat.square().mean().sqrt() / flat
    small = (tried(SMALL * shape) - bias) / (gain * flat)
    # small = SMALL / sqrt(SMALL^2 x flat^2 + epsilon), where the gain is not zero.
    ratio = small[gain.abs() > 0.1 * gain.abs().max()].median()
    epsilon = float((SMALL / ratio) ** 2 - SMALL**2 * flat.square().mean())
    exact = (tried.exact(gain), tried.exact(bias))
    norm = Norm(exact[0].to(device), exact[1].to(device), centred, epsilon if epsilon > SMALL**2 / 10 else 0.0)
    miss = tried.miss(norm)
    if not miss <= TOLERANCE:
        raise ConfigError(
            f"{type(module).__name__} is no norm of a known form (gain * centred state / scale + bias; relative "
            f"difference {miss:.2g}): what is computed here would not be what the model computes."
        )
    return norm


def _alternating(width: int) -> Float[Tensor, " d_model"]:
    """Elements of both signs that are far from zero, so that a gain can be read off."""
    signs = 1.0 - 2.0 * (torch.arange(width) % 2)
    return (signs * (1.0 + 0.25 * torch.cos(torch.arange(width).double()))).double()


class _Tried:
    """A copy of the module in (at least) float32 that takes and gives states in float64."""

    def __init__(self, module: nn.Module, width: int, device: torch.device) -> None:
        parameter = next(module.parameters(), None)
        self.dtype = torch.float64 if parameter is not None and parameter.dtype == torch.float64 else torch.float32
        self.module = copy.deepcopy(module).to(self.dtype)
        self.width, self.device = width, device

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.module(x.to(self.device, self.dtype)[None, None])[0, 0].double().cpu()

    def _random(self, seed: int) -> Tensor:
        return torch.randn(self.width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def exact(self, measured: Tensor) -> Tensor:
        """What was measured without its rounding, where it is one of the module's parameters, or 1 + one of them."""
        for parameter in self.module.parameters():
            given = parameter.detach().double().cpu().reshape(-1)
            for candidate in (given, 1.0 + given):
                if candidate.shape == measured.shape and torch.allclose(candidate, measured, rtol=1e-5, atol=1e-6):
                    return candidate
        return measured

    def is_centred(self, bias: Tensor) -> bool:
        """Whether adding a constant to all elements changes nothing."""
        x = self._random(0)
        here, moved = self(x) - bias, self(x + 3.0) - bias
        return bool((here - moved).norm() <= 1e-3 * here.norm())

    def miss(self, norm: Norm) -> float:
        """The largest relative difference to the form, over states of several sizes."""
        misses = []
        for seed, size in enumerate((1e-3, 1.0, 30.0)):
            x = size * (self._random(seed) + 0.5)
            x = x.to(norm.gain.device)
            ours = norm.frozen(x, norm.scale(x)) + norm.bias
            theirs = self(x).to(ours.device)
            misses.append(float((ours - theirs).norm() / theirs.norm().clamp_min(1e-30)))
        return max(misses)
