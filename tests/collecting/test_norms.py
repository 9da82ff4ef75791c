"""The form of a norm, found by trying, is the one that its source says."""

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from tracelake.collect.models.norms import Norm, norm_form
from tracelake.lake.errors import ConfigError

CPU = torch.device("cpu")


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return module


@pytest.mark.parametrize(
    ("module", "centred", "one_plus", "epsilon"),
    [
        (nn.LayerNorm(48, eps=1e-5), True, 0, 1e-5),
        (nn.LayerNorm(49, eps=1e-12, bias=False), True, 0, 1e-12),
        (nn.LayerNorm(48, eps=0.1).double(), True, 0, 0.1),
        (LlamaRMSNorm(48, eps=1e-6), False, 0, 1e-6),
        (LlamaRMSNorm(49, eps=1e-5).bfloat16(), False, 0, 1e-5),
        (T5LayerNorm(48, eps=1e-6), False, 0, 1e-6),
        (Gemma2RMSNorm(48, eps=1e-6), False, 1, 1e-6),
    ],
    ids=["layer", "layer-odd-no-bias", "layer-wide-epsilon", "rms", "rms-half", "t5", "gemma"],
)
def test_the_form_is_that_of_the_source(module: nn.Module, centred: bool, one_plus: int, epsilon: float) -> None:
    module = randomised(module)
    width = next(module.parameters()).numel()
    norm = norm_form(module, width, CPU)
    assert norm.centred is centred and not norm.is_identity
    torch.testing.assert_close(norm.gain, module.weight.double() + one_plus, rtol=1e-5, atol=1e-5)
    bias = getattr(module, "bias", None)
    torch.testing.assert_close(norm.bias, torch.zeros_like(norm.gain) if bias is None else bias.double())
    assert norm.epsilon == pytest.approx(epsilon, rel=1e-3, abs=1e-13)


def test_frozen_parts_add_up_and_pulling_back_is_the_transpose() -> None:
    torch.manual_seed(0)
    module = randomised(nn.LayerNorm(48)).double()
    norm = norm_form(module, 48, CPU)
    parts = torch.randn(5, 48, dtype=torch.float64)
    whole = parts.sum(0)
    scale = norm.scale(whole)
    summed = norm.frozen(parts, scale).sum(0) + norm.bias
    torch.testing.assert_close(summed, module(whole), rtol=1e-9, atol=1e-9)
    g = torch.randn(48, dtype=torch.float64)
    a, b = g @ norm.frozen(parts[0], scale), parts[0] @ norm.pulled_back(g) / scale
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_no_norm_leaves_states_alone() -> None:
    norm = norm_form(nn.Identity(), 8, CPU)
    x = torch.randn(3, 8)
    torch.testing.assert_close(norm.frozen(x, norm.scale(x)), x)
    assert norm.is_identity and Norm.none(8).is_identity


class Squashing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * self.weight


def test_another_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="Squashing is no norm of a known form"):
        norm_form(Squashing(), 8, CPU)
