"""Second-order effects: the factored form against the tensor form, the adjoint form and the frozen path, by hand."""

from collections.abc import Callable

import pytest
import torch
from frozen_weights import BlockWeights, block_weights, final_weights
from random_models import ARCHITECTURES, D_MODEL, N_HEADS, N_LAYERS, random_model
from second_order_reads import LENGTHS, Read, centre, loaded_model, neuron_writes, read, through_heads
from torch import Tensor

from tracelake.collect.rereading.second_order.frozen_pass import FrozenPass, closing_error


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_factored_adjoint_and_tensor_form_agree(architecture: str) -> None:
    loaded = loaded_model(architecture)
    n_rows = 0
    for one in read(loaded):
        frozen, gain = one.frozen, final_weights(loaded.model, architecture)
        weights = [block_weights(loaded.model, architecture, k) for k in range(N_LAYERS)]
        assert closing_error(one.paths, frozen) < (1e-10 if architecture == "gpt2" else 2e-5)
        for row in range(len(one.batch.sequences)):
            n_rows += 1
            back = centre(gain * one.paths.direction, architecture) / frozen.end[row]
            for layer, scores in enumerate(one.scores):
                activation = one.neurons[layer][row]
                writes = neuron_writes(weights[layer], frozen, layer, row, activation)
                by_head = torch.zeros(N_LAYERS, N_HEADS, activation.shape[1], dtype=torch.float64)
                total = torch.zeros(N_HEADS, D_MODEL, dtype=torch.float64)
                for k in range(layer + 1, N_LAYERS):
                    for n in range(activation.shape[1]):
                        phi = through_heads(architecture, weights[k], frozen, k, row, writes[:, n])
                        by_head[k, :, n] = 100 * phi @ back
                    total += through_heads(architecture, weights[k], frozen, k, row, writes.sum(1))
                tensor = by_head.sum((0, 1))
                size = max(1.0, float(tensor.abs().max()))
                torch.testing.assert_close(scores.second[row], tensor, rtol=0, atol=1e-10 * size)
                # (a) all neurons together are the MLP's output without its bias.
                assert float(tensor.sum() - 100 * total.sum(0) @ back) == pytest.approx(0, abs=1e-10 * size)
                # (b) the adjoint: u(i) accumulated over later heads, then one inner product per neuron.
                u = adjoint(architecture, weights, frozen, layer, row, back)
                torch.testing.assert_close(
                    scores.second[row], 100 * torch.einsum("ind,id->n", writes, u), rtol=0, atol=1e-10 * size
                )
                assert scores.tokens is not None
                tokens = 100 * torch.einsum("ind,id->i", writes, u)
                torch.testing.assert_close(scores.tokens[row], tokens, rtol=0, atol=1e-10 * size)
                direct = 100 * writes[-1] @ back
                torch.testing.assert_close(scores.direct[row], direct, rtol=0, atol=1e-10 * size)
                if scores.heads is not None:
                    flat = by_head[layer + 1 :].flatten(0, 1)
                    torch.testing.assert_close(scores.heads[row], flat, rtol=0, atol=1e-10 * size)
            assert float(one.scores[-1].second[row].abs().max()) == 0, "nothing follows the last layer"
            assert float(one.scores[0].second[row].abs().max()) > 1e-3
    assert n_rows == len(LENGTHS)


def adjoint(
    architecture: str, weights: list[BlockWeights], frozen: FrozenPass, layer: int, row: int, back: Tensor
) -> Tensor:
    """u(i) of B 4.2 (b), `[column d]`."""
    u = torch.zeros(frozen.real.shape[1], D_MODEL, dtype=torch.float64)
    for k in range(layer + 1, N_LAYERS):
        w, g = weights[k], back
        if w.behind_attention is not None:
            g = w.behind_attention * g / frozen.behind[k][row]
        for head in range(N_HEADS):
            value = w.values[head // (N_HEADS // len(w.values))]
            through = value @ (w.outputs[head] @ g)
            u += (
                frozen.weights[k][row, head].unsqueeze(-1)
                * centre(w.gain * through, architecture)
                / (frozen.before[k][row].unsqueeze(-1))
            )
    return u


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "gemma2", "mistral-window"])
def test_removing_a_neuron_on_the_frozen_path_takes_its_score_away(architecture: str) -> None:
    """The attention of every later layer is computed twice from whole states with all biases, attention weights and
    scales held: with one neuron's output in the residual stream and without it."""
    loaded = loaded_model(architecture)
    weights = [block_weights(loaded.model, architecture, k) for k in range(N_LAYERS)]
    gain = final_weights(loaded.model, architecture)
    for one in read(loaded):
        for row, layer, neuron in ((0, 0, 5), (0, 1, 40)):
            frozen, changed = one.frozen, 0.0
            writes = neuron_writes(weights[layer], frozen, layer, row, one.neurons[layer][row])[:, neuron]
            for k in range(layer + 1, N_LAYERS):
                state = torch.where(frozen.real[row].unsqueeze(-1) > 0, frozen.states["resid_pre"][k][row], 0.0)
                ends = [attention_output(architecture, weights[k], frozen, k, row, x) for x in (state, state - writes)]
                stored = frozen.states["attn_out"][k][row, -1]
                torch.testing.assert_close(ends[0], stored, rtol=1e-4, atol=1e-5 * float(stored.norm()))
                taken = centre(ends[0] - ends[1], architecture)
                changed += float(100 * (gain * taken / frozen.end[row]) @ one.paths.direction)
            score = float(one.scores[layer].second[row, neuron])
            assert abs(score) > 1e-4 and changed == pytest.approx(score, rel=1e-7, abs=1e-9)


def attention_output(
    architecture: str, weights: BlockWeights, frozen: FrozenPass, layer: int, row: int, state: Tensor
) -> Tensor:
    """What a layer's attention adds at T, from whole states, with held attention weights and scales."""
    normed = weights.gain * centre(state, architecture) / frozen.before[layer][row].unsqueeze(-1) + weights.shift
    group = torch.arange(N_HEADS) // (N_HEADS // len(weights.values))
    values = torch.einsum("id,hde->hie", normed, weights.values[group]) + weights.value_bias[group].unsqueeze(1)
    attended = torch.einsum("hi,hie->he", frozen.weights[layer][row] * frozen.real[row], values)
    output = torch.einsum("he,hed->d", attended, weights.outputs) + weights.output_bias
    if weights.behind_attention is not None:
        output = weights.behind_attention * output / frozen.behind[layer][row]
    return output


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral-window", "gemma2"])
def test_attention_is_what_the_model_used(architecture: str) -> None:
    """Against the maps that the model itself returns when it computes eagerly, one sequence at a time."""
    loaded = loaded_model(architecture, torch.float32)
    eager = random_model(architecture)
    eager.set_attn_implementation("eager")
    for one in read(loaded):
        for row, sequence in enumerate(one.batch.sequences):
            with torch.no_grad():
                maps = eager(torch.from_numpy(sequence.prompt_ids)[None], output_attentions=True).attentions
            pad = int(one.batch.pads[row])
            for layer in range(N_LAYERS):
                ours = one.frozen.weights[layer][row]
                torch.testing.assert_close(ours[:, pad:], maps[layer][0, :, -1], rtol=1e-4, atol=1e-5)
                assert float(ours[:, :pad].abs().sum()) == 0


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "gemma2"])
def test_float32_is_near_float64(architecture: str) -> None:
    rows: list[dict[int, list[Tensor]]] = []
    for dtype in (torch.float32, torch.float64):
        found: dict[int, list[Tensor]] = {}
        for one in read(loaded_model(architecture, dtype)):
            for row, sequence in enumerate(one.batch.sequences):
                found[sequence.sequence_id] = [scores.second[row].double() for scores in one.scores]
        rows.append(found)
    for sequence_id, exact in rows[1].items():
        for narrow, wide in zip(rows[0][sequence_id][:-1], exact, strict=False):
            assert float((narrow - wide).norm() / wide.norm()) < 1e-3


def shifted_column(one: Read) -> None:
    one.frozen.weights[1] = one.frozen.weights[1].roll(1, dims=-1)


def shifted_head(one: Read) -> None:
    one.frozen.weights[1] = one.frozen.weights[1].roll(1, dims=1)


def shifted_layer(one: Read) -> None:
    one.frozen.weights = one.frozen.weights[1:] + one.frozen.weights[:1]


def shifted_scale(one: Read) -> None:
    one.frozen.before[2] = one.frozen.before[1]


def forgotten_padding(one: Read) -> None:
    one.frozen.real[:] = 1
    one.frozen.weights = [torch.full_like(w, 1 / w.shape[-1]) for w in one.frozen.weights]


def another_value_group(one: Read) -> None:
    layer = one.paths.layers[1]
    object.__setattr__(layer, "into", layer.into.roll(N_HEADS // 2, dims=0))


def another_end(one: Read) -> None:
    one.frozen.end = one.frozen.end * 1.01


@pytest.mark.parametrize(
    "fault",
    [shifted_column, shifted_head, shifted_layer, shifted_scale, forgotten_padding, another_value_group, another_end],
)
def test_the_closing_identity_sees_whatever_is_off_by_one(fault: Callable[[Read], None]) -> None:
    one = read(loaded_model("llama"))[0]
    assert one.batch.pads.any() and closing_error(one.paths, one.frozen) < 2e-5
    fault(one)
    assert closing_error(one.paths, one.frozen) > 1e-3


def test_scaling_by_the_state_divides_by_its_length() -> None:
    plain, scaled = (read(loaded_model("gpt2"), scaling=scaling)[0] for scaling in ("plain", "state"))
    size = plain.frozen.final.norm(dim=-1, keepdim=True)
    for a, b in zip(plain.scores, scaled.scores, strict=True):
        torch.testing.assert_close(a.second / size, b.second, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(a.direct / size, b.direct, rtol=1e-12, atol=1e-14)
