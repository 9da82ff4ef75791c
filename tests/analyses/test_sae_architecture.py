"""Every architecture's loss and gradients against plain autograd on dense tensors, written out in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tracelake.analysis.sae import architecture, kernels
from tracelake.analysis.sae.architecture import BANDWIDTH, Dictionary, losses

D, F, N, K = 6, 24, 40, 3
SHAPES = {
    "relu": Dictionary("relu", D, D, F, sparsity=0.3),
    "threshold-relu": Dictionary("threshold-relu", D, D, F, sparsity=0.3),
    "topk": Dictionary("topk", D, D, F, k=K),
    "batchtopk": Dictionary("batchtopk", D, D, F, k=K),
    "matryoshka": Dictionary("matryoshka", D, D, F, k=K, nested=(5, 11, F)),
    "jumprelu": Dictionary("jumprelu", D, D, F, sparsity=0.2),
    "jumprelu-target": Dictionary("jumprelu", D, D, F, sparsity=0.2, target_l0=4.0),
    "gated": Dictionary("gated", D, D, F, sparsity=0.3),
    "relu-transcoder": Dictionary("relu", D, D + 2, F, sparsity=0.3, transcoder=True),
    "batchtopk-skip": Dictionary("batchtopk", D, D + 2, F, k=K, transcoder=True, skip=True),
    "jumprelu-skip": Dictionary("jumprelu", D, D + 2, F, sparsity=0.2, transcoder=True, skip=True),
}


def _problem(shape: Dictionary) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Parameters away from their first values, a batch and its target."""
    generator = torch.Generator().manual_seed(5)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    parameters = architecture.first_parameters(shape, draw(shape.d_out), generator, torch.float64)
    for name, value in parameters.items():
        parameters[name] = value + 0.1 * (draw(*value.shape).abs() if name == "threshold" else draw(*value.shape))
        parameters[name].requires_grad_()
    x = draw(N, D)
    return parameters, x, draw(N, shape.d_out) if shape.transcoder else x


class _Rectangle(torch.autograd.Function):
    """Heaviside(pre - threshold) with the rectangle as its derivative with respect to the threshold."""

    @staticmethod
    def forward(ctx, gap: Tensor) -> Tensor:
        ctx.save_for_backward(gap)
        return (gap > 0).to(gap.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        [gap] = ctx.saved_tensors
        return gradient * (gap.abs() < BANDWIDTH / 2) / BANDWIDTH


def _top_mask(pre: Tensor, k: int, whole_batch: bool) -> Tensor:
    flat = pre.detach().reshape(1, -1) if whole_batch else pre.detach()
    count = k * len(pre) if whole_batch else k
    kept = torch.zeros_like(flat).scatter_(1, flat.topk(count).indices, 1.0)
    return kept.reshape(pre.shape)


def _plain_loss(shape: Dictionary, p: dict[str, Tensor], x: Tensor, y: Tensor, dead: Tensor | None) -> Tensor:
    """The formulas of docs/sae.md, nothing sparse and nothing shared with the code."""
    centred = x - p["b_dec"] if shape.arch != "threshold-relu" and not shape.transcoder else x
    base = p["b_dec"] + (x @ p["W_skip"].T if shape.skip else 0)

    def error(a: Tensor, weights: Tensor) -> Tensor:
        return ((a @ weights + base - y) ** 2).sum(-1).mean()

    if shape.arch == "gated":
        gate = centred @ p["W_enc"] + p["b_gate"]
        a = (gate > 0) * torch.relu(centred @ (p["W_enc"] * p["r_mag"].exp()) + p["b_mag"])
        only = ((torch.relu(gate) @ p["W_dec"].detach() + p["b_dec"].detach() - y) ** 2).sum(-1).mean()
        return error(a, p["W_dec"]) + shape.sparsity * torch.relu(gate).sum(-1).mean() + only
    pre = centred @ p["W_enc"] + p["b_enc"]
    if shape.arch == "relu":
        return error(torch.relu(pre), p["W_dec"]) + shape.sparsity * torch.relu(pre).sum(-1).mean()
    if shape.arch == "threshold-relu":
        a = pre * (pre > 0.1)
        return ((a @ p["W_dec"] + base - y) ** 2).mean() + shape.sparsity * a.abs().mean()
    if shape.arch == "jumprelu":
        on = _Rectangle.apply(pre.detach() - p["threshold"])
        # The value's gradient to pre passes only where it is on; the threshold is reached through `on`, at pre = θ.
        a = pre * (pre > p["threshold"]) + p["threshold"].detach() * (on - on.detach())
        l0 = on.sum(-1).mean()
        weight, aim = shape.sparsity, shape.target_l0
        return error(a, p["W_dec"]) + (weight * l0 if aim is None else 2 * weight * (l0 - aim) ** 2 / aim)
    a = torch.relu(pre) * _top_mask(pre, K, shape.arch != "topk")
    total = sum(error(a[:, :m], p["W_dec"][:m]) for m in (shape.nested or (F,)))
    if dead is None:
        return total
    residual = (y - a @ p["W_dec"] - base).detach()
    silent = pre[:, dead]
    b = torch.relu(silent) * _top_mask(silent, min(int(dead.sum()), shape.d_out // 2), False)
    variance = ((residual - residual.mean(0)) ** 2).sum(-1).mean()
    return total + ((b @ p["W_dec"][dead] - residual) ** 2).sum(-1).mean() / variance / 32


@pytest.mark.parametrize("with_dead", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_loss_and_gradients_equal_plain_autograd(name: str, with_dead: bool) -> None:
    shape = SHAPES[name]
    dead = torch.arange(F) % 3 == 1 if with_dead and shape.arch in architecture.SPARSE else None
    parameters, x, y = _problem(shape)
    found = losses(shape, parameters, x, y, dead=dead)
    gradients = torch.autograd.grad(found.loss, list(parameters.values()), allow_unused=True)
    wanted = _plain_loss(shape, parameters, x, y, dead)
    references = torch.autograd.grad(wanted, list(parameters.values()), allow_unused=True)
    assert found.loss.item() == pytest.approx(wanted.item(), rel=1e-10)
    for key, gradient, reference in zip(parameters, gradients, references, strict=True):
        assert gradient is not None and reference is not None, key
        assert reference.norm() > 0, key
        assert (gradient - reference).norm() <= 1e-5 * reference.norm(), key


def test_the_reference_can_differ() -> None:
    shape = SHAPES["topk"]
    parameters, x, y = _problem(shape)
    other = Dictionary("topk", D, D, F, k=K + 1)
    assert losses(other, parameters, x, y).loss.item() != pytest.approx(
        _plain_loss(shape, parameters, x, y, None).item()
    )


@pytest.mark.parametrize(("d_sae", "k"), [(64, 5), (kernels.GROUPED_FROM, 7), (kernels.GROUPED_FROM + 3, 2)])
def test_top_k_equals_the_dense_one(d_sae: int, k: int) -> None:
    pre = torch.randn(30, d_sae, generator=torch.Generator().manual_seed(1))
    pre[3] = -pre[3].abs()  # a row with nothing positive
    best = pre.topk(k, dim=1)
    dense = torch.zeros_like(pre).scatter_(1, best.indices, best.values.relu())
    code = kernels.top_k(pre, k)
    assert torch.equal(code.dense(), dense)
    assert code.starts[4] == code.starts[3]


@pytest.mark.parametrize("last", [0.0, 1.5, 2.4, 99.0])
def test_batch_top_k_equals_a_full_search_whatever_the_last_threshold(last: float) -> None:
    pre = torch.randn(50, 64, generator=torch.Generator().manual_seed(2))
    code, threshold = kernels.batch_top_k(pre, 4, last)
    wanted = pre.flatten().topk(200)
    assert torch.equal(code.dense().flatten(), torch.zeros(3200).scatter_(0, wanted.indices, wanted.values))
    assert threshold == wanted.values[-1].item()


def test_sparse_products_equal_dense_ones() -> None:
    generator = torch.Generator().manual_seed(3)
    pre, decoder, g = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((30, 40), (40, 7), (30, 7)))
    code = kernels.top_k(pre, 5)
    assert torch.allclose(kernels.decode(code, decoder), code.dense() @ decoder)
    assert torch.allclose(kernels.transposed_product(code, code.values, g), code.dense().T @ g)
    part = code.between(10, 25)
    assert torch.equal(part.dense(), code.dense()[:, 10:25])
    assert torch.equal(kernels.above(pre).dense(), pre.relu())


def test_candidates_in_bfloat16_have_exact_values() -> None:
    shape = SHAPES["topk"]
    parameters, x, y = _problem(shape)
    parameters = {name: value.detach().float() for name, value in parameters.items()}
    found = losses(shape, parameters, x.float(), y.float(), select=torch.bfloat16)
    pre = (x.float() - parameters["b_dec"]) @ parameters["W_enc"] + parameters["b_enc"]
    assert torch.allclose(found.active.values, pre[found.active.rows, found.active.features], atol=1e-5)


@pytest.mark.parametrize("name", ["topk", "jumprelu", "threshold-relu"])
def test_steps_keep_decoder_rows_at_unit_length(name: str) -> None:
    shape = SHAPES[name]
    parameters, x, y = _problem(shape)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.5)
    for step in (1, 100):
        optimizer.zero_grad()
        losses(shape, parameters, x, y).loss.backward()
        architecture.before_step(shape, parameters)
        if name != "threshold-relu" and step == 100:
            inner = (parameters["W_dec"].grad * parameters["W_dec"]).sum(1)
            assert inner.abs().max() < 1e-9  # nothing along the rows themselves
        optimizer.step()
        architecture.after_step(shape, parameters, step)
    assert torch.allclose(parameters["W_dec"].norm(dim=1), torch.ones(F, dtype=torch.float64))
    assert "threshold" not in parameters or bool((parameters["threshold"] >= 0).all())


@pytest.mark.parametrize("arch", ["relu", "gated", "jumprelu", "topk", "batchtopk"])
def test_the_first_encoder_has_the_length_that_fits_best(arch: str) -> None:
    """Decoder rows that lie close together: without the fitted length the first reconstruction is far too long."""
    generator = torch.Generator().manual_seed(1)
    common = torch.randn(D, generator=generator, dtype=torch.float64)
    rows = torch.randn(200, D, generator=generator, dtype=torch.float64) + 2 * common
    rows -= rows.mean(0) - 0.5 * common
    directions = rows / rows.norm(dim=1, keepdim=True)
    shape = Dictionary(arch, D, D, 64 * D, k=K if arch in architecture.SPARSE else None, sparsity=0.1)
    parameters = architecture.first_parameters(shape, torch.zeros(D), generator, torch.float64, directions)
    decoder, encoder = parameters["W_dec"].numpy(), parameters["W_enc"].numpy()
    np.testing.assert_allclose(np.linalg.norm(decoder, axis=1), 1, atol=1e-12)
    length = np.linalg.norm(encoder, axis=0)
    np.testing.assert_allclose(encoder / length, decoder.T, atol=1e-12)
    x = directions.numpy()
    active = np.maximum(x @ decoder.T, 0)
    if arch in architecture.SPARSE:
        active *= active >= np.sort(active, axis=1)[:, -K:][:, :1]
    plain = active @ decoder
    best = np.linalg.lstsq(plain.reshape(-1, 1), x.ravel(), rcond=None)[0][0]
    np.testing.assert_allclose(length, best, rtol=1e-9)
    assert ((best * plain - x) ** 2).sum() < (x**2).sum() < ((plain - x) ** 2).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d_sae", "k"), [(64, 5), (64, 63), (30, 29), (1024, 32), (4099, 3)])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_top_k_by_bounds_equals_torch(d_sae: int, k: int, shift: float, dtype: torch.dtype) -> None:
    pre = torch.randn(40, d_sae, generator=torch.Generator().manual_seed(0), dtype=dtype) + shift
    code = kernels.top_k(pre, k)
    values, features = pre.topk(k)
    assert torch.equal(code.dense(), torch.zeros_like(pre).scatter(1, features, values.clamp_min(0)))
    assert torch.equal(code.rows, torch.arange(40).repeat_interleave(code.starts.diff()))
    assert bool((code.features.diff()[code.rows.diff() == 0] > 0).all())


def test_equal_values_are_k_of_each_row() -> None:
    pre = torch.randint(-2, 3, (60, 128), generator=torch.Generator().manual_seed(0)).float()
    code, wanted = kernels.top_k(pre, 9), pre.topk(9).values.clamp_min(0)
    assert torch.equal(code.dense().sort(1, descending=True).values[:, :9], wanted)
    assert torch.equal(code.starts.diff(), (wanted > 0).sum(1))
    assert kernels.top_k(torch.zeros(3, 64), 5).features.numel() == 0
    assert kernels.top_k(torch.ones(2, 64), 5).features.tolist() == [0, 1, 2, 3, 4] * 2


def test_order_by_feature_is_that_of_a_stable_sort() -> None:
    code = kernels.top_k(torch.randn(50, 200, generator=torch.Generator().manual_seed(0)), 7)
    for d_sae in (200, 2**16 + 1):  # by digits of 16 bits, and beyond them
        order, rows, starts = kernels.Code(code.starts, code.features, code.values, d_sae).by_feature
        assert torch.equal(order, code.features.argsort(stable=True)) and torch.equal(rows, code.rows[order])
        assert torch.equal(starts.diff(), torch.bincount(code.features, minlength=d_sae))
