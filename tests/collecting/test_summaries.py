"""Tensors to numbers: golden values, extreme input, and the same formulas in numpy."""

import math

import numpy as np
import pytest
import torch
from plain_forward import basin, entropy_of, log_probabilities, uniform_basin

from tracelake.collect.observing.summaries import (
    STATE_STATISTICS,
    attention_rows,
    best_tokens,
    distribution,
    entropy_bits,
    state_statistics,
)
from tracelake.lake.tables.uniform_attention import uniform_basin as expected_basin

LOWEST = torch.finfo(torch.float32).min


def described(logits: torch.Tensor, ids: list[int], k: int = 10) -> dict[str, np.ndarray]:
    found = distribution(logits, torch.tensor(ids), k=k)
    return {name: value.double().numpy() for name, value in found._asdict().items()}


def test_four_equal_logits() -> None:
    found = described(torch.full((1, 4), 7.5), [0])
    assert found["entropy_bits"] == pytest.approx(2)
    assert -found["logprob"] / math.log(2) == pytest.approx(2)
    assert found["margin"] == 0 and found["rank"] == 0
    assert found["top10_mass"] == pytest.approx(1) and found["top1_prob"] == pytest.approx(0.25)
    assert found["topk_ids"].shape == (1, 4) and sorted(found["topk_ids"][0]) == [0, 1, 2, 3]


@pytest.mark.parametrize("d_vocab", [5, 4095, 4096, 4097, 4160, 10_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_best_token_is_the_first_of_the_largest(d_vocab: int, dtype: torch.dtype) -> None:
    few_values = torch.randint(-3, 4, (60, d_vocab), generator=torch.Generator().manual_seed(2)).to(dtype)
    at_the_end = torch.zeros(2, d_vocab, dtype=dtype)
    at_the_end[0, -1], at_the_end[1, -2] = 1, 1
    broken = torch.full((3, d_vocab), -torch.inf, dtype=dtype)
    broken[1, d_vocab // 2], broken[2, -1] = torch.nan, torch.inf
    logits = torch.cat((few_values, at_the_end, broken))
    expected = torch.from_numpy(logits.float().numpy().argmax(-1))
    assert torch.equal(best_tokens(logits), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_distribution_equals_numpy(dtype: torch.dtype, scale: float) -> None:
    logits = (torch.randn(50, 333, generator=torch.Generator().manual_seed(0)) * scale).to(dtype)
    ids = torch.randint(333, (50,), generator=torch.Generator().manual_seed(1)).tolist()
    found = described(logits, ids, k=7)
    x = logits.double().numpy()
    logprobs = log_probabilities(x)
    p = -np.sort(-np.exp(logprobs), axis=-1)
    own = x[np.arange(50), ids]
    np.testing.assert_allclose(found["logprob"], logprobs[np.arange(50), ids], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["entropy_bits"], entropy_of(np.exp(logprobs)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["rank"], (x > own[:, None]).sum(-1))
    np.testing.assert_allclose(found["top1_prob"], p[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found["margin"], p[:, 0] - p[:, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["top10_mass"], p[:, :10].sum(-1), rtol=1e-5)
    np.testing.assert_allclose(found["topk_logprobs"], -np.sort(-logprobs, axis=-1)[:, :7], rtol=1e-5, atol=1e-5)
    by_id = np.take_along_axis(logprobs, found["topk_ids"].astype(int), -1)
    np.testing.assert_allclose(found["topk_logprobs"], by_id, rtol=1e-5, atol=1e-5)


def test_extreme_logits() -> None:
    logits = torch.full((4, 20), -1e4)
    logits[0, 3] = 1e4  # certain
    logits[1] = -math.inf
    logits[1, [2, 5]] = 0.0  # masked but for two
    logits[2] = 1e4  # uniform, far from zero
    logits[3, :2] = torch.tensor([1e4, 1e4 - 1])
    found = described(logits, [3, 7, 0, 1])
    np.testing.assert_allclose(found["entropy_bits"], [0, 1, math.log2(20), 0.8399], atol=1e-4)
    np.testing.assert_allclose(found["logprob"], [0, -math.inf, -math.log(20), -1.3133], atol=1e-4)
    np.testing.assert_allclose(found["top1_prob"], [1, 0.5, 0.05, 0.7311], atol=1e-4)
    np.testing.assert_allclose(found["margin"], [1, 0, 0, 0.4621], atol=1e-4)
    np.testing.assert_allclose(found["top10_mass"], [1, 1, 0.5, 1], atol=1e-5)
    assert found["rank"].tolist() == [0, 2, 0, 1]
    assert not any(np.isnan(value).any() for value in found.values())
    np.testing.assert_array_equal(entropy_bits(logits).double().numpy(), found["entropy_bits"])


def test_rank_counts_strictly_larger_logits() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0]]).expand(4, -1)
    assert described(logits, [0, 1, 2, 3])["rank"].tolist() == [3, 0, 0, 2]


@pytest.mark.parametrize("d_vocab", [1, 2, 9])
def test_vocabularies_smaller_than_ten(d_vocab: int) -> None:
    found = described(torch.arange(d_vocab).float()[None], [0])
    assert found["topk_ids"][0].tolist() == list(range(d_vocab))[::-1]
    assert found["top10_mass"] == pytest.approx(1)
    assert found["margin"] > 0


def statistics_of(x: torch.Tensor, before: torch.Tensor | None = None) -> dict[str, np.ndarray]:
    return dict(zip(STATE_STATISTICS, state_statistics(x, before).double().numpy(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_statistics_equal_numpy(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 2, 5, 48, generator=torch.Generator().manual_seed(0)) * 30 + 4).to(dtype)
    found, y = statistics_of(x), x.double().numpy()
    norm = np.linalg.norm(y, axis=-1)
    wanted = {"l2_norm": norm, "mean": y.mean(-1), "std": y.std(-1, ddof=1), "max_abs": np.abs(y).max(-1)}
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)
    assert np.isnan(found["cos_prev_layer"][0]).all() and np.isnan(found["delta_norm"][0]).all()
    assert np.isnan(found["cos_prev_position"][:, :, 0]).all()
    np.testing.assert_allclose(found["delta_norm"][1:], np.linalg.norm(np.diff(y, axis=0), axis=-1), rtol=1e-5)
    layer = (y[1:] * y[:-1]).sum(-1) / (norm[1:] * norm[:-1])
    position = (y[:, :, 1:] * y[:, :, :-1]).sum(-1) / (norm[:, :, 1:] * norm[:, :, :-1])
    np.testing.assert_allclose(found["cos_prev_layer"][1:], layer, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["cos_prev_position"][:, :, 1:], position, rtol=1e-4, atol=1e-5)


def test_chunks_give_what_the_whole_gives() -> None:
    x = torch.randn(3, 2, 9, 16, generator=torch.Generator().manual_seed(0))
    whole = state_statistics(x, None)
    parts = (state_statistics(x[:, :, :4], None), state_statistics(x[:, :, 4:], x[:, :, 3]))
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole, equal_nan=True)


def test_broken_elements_are_counted_where_they_are() -> None:
    x = torch.ones(2, 1, 3, 4)
    x[0, 0, 1, :2] = math.nan
    x[1, 0, 2, 0], x[1, 0, 2, 1] = math.inf, -math.inf
    found = statistics_of(x)
    assert found["n_nan"].tolist() == [[[0, 2, 0]], [[0, 0, 0]]]
    assert found["n_inf"].tolist() == [[[0, 0, 0]], [[0, 0, 2]]]


def test_a_zero_state_has_no_direction() -> None:
    """Its cosines are unknown, which is not the same as orthogonal; its norms and differences are known."""
    x = torch.ones(2, 1, 3, 4)
    x[0, 0, 1] = 0
    found = statistics_of(x)
    assert np.isnan(found["cos_prev_position"][0, 0]).all()
    assert np.isnan(found["cos_prev_layer"][1, 0]).tolist() == [False, True, False]
    assert found["delta_norm"][1, 0].tolist() == [0, 2, 0]
    assert found["l2_norm"][0, 0, 1] == 0


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_cosines_of_tiny_and_of_huge_states(size: float) -> None:
    x = torch.tensor([[[[3.0, 4.0], [4.0, 3.0]]]]) * size
    assert statistics_of(x)["cos_prev_position"][0, 0, 1] == pytest.approx(0.96)


def masked_scores(n: int, generator: torch.Generator) -> torch.Tensor:
    scores = torch.randn(2, 3, n, n, generator=generator) * 4
    return scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), LOWEST)


def softmax(x: np.ndarray) -> np.ndarray:
    weight = np.exp(x - x.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def test_attention_rows_equal_numpy() -> None:
    scores = masked_scores(11, torch.Generator().manual_seed(0))
    weights = softmax(scores.double().numpy())
    middle = torch.zeros(2, 11, dtype=torch.bool)
    middle[0, 3:7], middle[1, 5:8] = True, True
    found = attention_rows(scores.clone(), None, middle)
    np.testing.assert_allclose(found.entropy_bits, entropy_of(weights), atol=1e-5)
    np.testing.assert_allclose(found.max_weight, weights.max(-1), rtol=1e-5)
    np.testing.assert_array_equal(found.max_index, weights.argmax(-1))
    np.testing.assert_allclose(found.middle, np.einsum("bhqk,bk->bhq", weights, middle.double().numpy()), atol=1e-6)
    np.testing.assert_allclose(found.total, 1, rtol=1e-6)


def test_attention_sinks_take_weight_but_are_no_keys() -> None:
    scores = masked_scores(6, torch.Generator().manual_seed(0))
    sinks = torch.tensor([-1.0, 2.0, 30.0])
    joint = np.concatenate((scores.double().numpy(), np.broadcast_to(sinks[:, None, None], (2, 3, 6, 1))), axis=-1)
    weights = softmax(joint)[..., :-1]
    found = attention_rows(scores.clone(), sinks[None, :, None].expand(1, -1, 6))
    np.testing.assert_allclose(found.entropy_bits, entropy_of(weights), atol=1e-5)
    np.testing.assert_allclose(found.max_weight, weights.max(-1), rtol=1e-5)
    np.testing.assert_allclose(found.total, weights.sum(-1), rtol=1e-5)


def test_the_largest_weight_is_the_lowest_key_on_ties() -> None:
    scores = torch.tensor([[[[1.0, 5.0, 5.0, 5.0], [2.0, 2.0, 2.0, LOWEST]]]])
    found = attention_rows(scores)
    assert found.max_index.tolist() == [[[1, 0]]]
    assert found.entropy_bits[0, 0, 1].item() == pytest.approx(math.log2(3))


def test_a_single_key_has_entropy_zero() -> None:
    found = attention_rows(torch.full((1, 1, 1, 1), 1e4))
    assert found.entropy_bits.item() == 0 and found.max_weight.item() == 1


@pytest.mark.parametrize(
    ("n", "golden"), [(1, 1), (2, 1), (3, 0.3846), (5, 0.7045), (8, 0.52), (32, 0.3548), (100, 0.3158)]
)
def test_basin_of_uniform_causal_attention(n: int, golden: float) -> None:
    assert expected_basin(n, causal=True) == pytest.approx(golden, abs=5e-5)
    assert expected_basin(n, causal=True) == pytest.approx(uniform_basin(n), rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100])
def test_basin_of_uniform_attention_of_an_encoder(n: int) -> None:
    """All queries see all keys alike, so that the middle third has its share of the keys."""
    assert expected_basin(n, causal=False) == pytest.approx(basin(np.full((n, n), 1 / n)), rel=1e-9)
