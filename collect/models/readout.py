"""From the last residual state to logits: the final norm, the unembedding, a scale and a soft cap."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...lake.errors import ConfigError
from .model import LoadedModel
from .norms import Norm, norm_form
from .sites.anatomy import block_input, first_tensor
from .stack import Stack

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
HALF_TOLERANCE = 2e-2
CAP_NAME = "final_logit_softcapping"


def final_norm(stack: Stack) -> nn.Module | None:
    """The module that makes the final-normed states out of the last block's output; None if nothing does.

    ConfigError where something else stands between them (a projection), which no norm explains.
    """
    inside = {id(module) for block in stack.blocks for module in block.modules()}
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    ends: list[Tensor] = []
    final: list[Tensor] = []
    handles = [
        stack.blocks[-1].register_forward_hook(lambda m, args, out: ends.append(first_tensor(out).clone())),
        stack.module.register_forward_hook(lambda m, args, out: final.append(out.last_hidden_state.clone())),
    ]

    def record(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        if ends and isinstance(output, Tensor) and (args or kwargs):
            calls.append((module, block_input(args, kwargs).clone(), output.clone()))

    for module in stack.module.modules():
        if id(module) not in inside and module is not stack.module and module is not stack.blocks:
            handles.append(module.register_forward_hook(record, with_kwargs=True))
    try:
        stack.probe()
    finally:
        for handle in handles:
            handle.remove()
    if torch.equal(final[-1], ends[-1]):
        return None
    for module, read, wrote in calls:
        if read.shape == ends[-1].shape and torch.equal(read, ends[-1]) and _same_values(wrote, final[-1]):
            return module
    raise ConfigError(
        f"{type(stack.module).__name__}: no single norm makes the final states out of the last block's output, so that "
        "states of other blocks cannot be read the same way."
    )


def _same_values(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and bool(torch.equal(a.reshape(-1), b.reshape(-1)))


@dataclass(frozen=True)
class Readout:
    """Final norm and unembedding of a model."""

    loaded: LoadedModel
    norm: nn.Module | None

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Readout":
        """Those of a loaded model's decoder."""
        return cls(loaded, final_norm(loaded.decoder))

    def logits(self, states: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Raw logits of residual states: the model's own final norm, its statistics taken from these states."""
        normed = states if self.norm is None else self.norm(states.unsqueeze(0))[0]
        return self.loaded.unembed(normed)

    @cached_property
    def form(self) -> Norm:
        """What the final norm computes."""
        return norm_form(self.norm, self.loaded.d_model, self.loaded.device)

    @property
    def weight(self) -> Float[Tensor, "d_vocab d_model"]:
        """The unembedding, one row per token."""
        return self._head.weight

    @cached_property
    def _head(self) -> nn.Linear:
        head = self.loaded.model.get_output_embeddings()
        if not isinstance(head, nn.Linear) or head.weight.shape[1] != self.loaded.d_model:
            raise ConfigError(
                f"{type(self.loaded.model).__name__}: its logits are no inner products of final states with one vector "
                "per token, so that they cannot be split into contributions."
            )
        return head

    @property
    def bias(self) -> Float[Tensor, " d_vocab"] | None:
        """What the head adds to every token's logit."""
        return self._head.bias

    @cached_property
    def cap(self) -> float | None:
        """The final soft cap: logits are cap * tanh(x / cap)."""
        value = getattr(self.loaded.config, CAP_NAME, None)
        return None if value is None else float(value)

    @cached_property
    def logit_scale(self) -> float:
        """What the inner products are multiplied by, found by trying; ConfigError if the logits are no multiple."""
        random = torch.Generator().manual_seed(0)
        states = torch.randn(8, self.loaded.d_model, generator=random).to(self.loaded.device, self.loaded.model.dtype)
        with torch.no_grad():
            raw = (states @ self.weight.T).double()
            if self.bias is not None:
                raw = raw + self.bias.double()
            # Small enough to stay away from the ends of a soft cap.
            size = 1.0 if self.cap is None else 0.1 * self.cap / float(raw.abs().max())
            if self.bias is not None and size != 1.0:
                raise ConfigError(f"{type(self.loaded.model).__name__}: a soft cap beside a bias is not known here.")
            given = self.uncapped(self.loaded.unembed(states * size).double()) / size
        scale = float((given * raw).sum() / raw.square().sum())
        miss = float((given - scale * raw).norm() / given.norm())
        if not miss <= TOLERANCE.get(self.loaded.model.dtype, HALF_TOLERANCE):
            raise ConfigError(
                f"{type(self.loaded.model).__name__}: its logits are no multiple of the inner products of final states "
                f"and unembedding (relative difference {miss:.2g}), so that they cannot be split into contributions."
            )
        return 1.0 if abs(scale - 1) < 1e-3 * (1 if self._exact else 10) else scale

    @property
    def _exact(self) -> bool:
        return self.loaded.model.dtype in TOLERANCE

    def uncapped(self, logits: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Logits before the final soft cap."""
        return logits if self.cap is None else self.cap * torch.atanh(logits / self.cap)

    def difference(self, a: Int[Tensor, " n"], b: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        """The directions of final-normed space along which token a gains on token b, in float64, scale included."""
        return self.logit_scale * (self.weight[a].double() - self.weight[b].double())

    def bias_difference(self, a: Int[Tensor, " n"], b: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What the head's bias gives token a over token b."""
        if self.bias is None:
            return torch.zeros(len(a), dtype=torch.float64, device=a.device)
        return self.logit_scale * (self.bias[a].double() - self.bias[b].double())
