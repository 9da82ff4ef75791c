"""Tests grouped by prompt, and rank correlations: against scipy, against every permutation, against known truths."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tracelake.analysis.comparing.correlation import correlation
from tracelake.analysis.comparing.permutation import BETWEEN, WITHIN, difference, holm, p_value, permuted


def _by_hand(values: np.ndarray, prompt: np.ndarray, in_a: np.ndarray) -> float:
    gaps = [values[(prompt == p) & in_a].mean() - values[(prompt == p) & ~in_a].mean() for p in np.unique(prompt)]
    return float(np.mean(gaps))


def test_the_statistic_is_the_mean_of_the_prompts_differences() -> None:
    rng = np.random.default_rng(0)
    prompt, in_a = np.repeat([4, 7, 9], [3, 4, 5]), np.tile([True, False], 6)
    values = rng.normal(size=12)
    found = difference(values, prompt, in_a, n_permutations=99, seed=0)
    assert found.difference == pytest.approx(_by_hand(values, prompt, in_a))
    assert (found.design, found.n_prompts, found.n_a + found.n_b) == (WITHIN, 3, 12)


def test_random_permutations_agree_with_all_of_them() -> None:
    """Two prompts of 2 + 2 sequences: 6 x 6 labellings."""
    values = np.array([0.1, 0.9, 2.0, 2.7, 5.0, 5.1, 7.0, 8.5])
    prompt = np.repeat([0, 1], 4)
    every = []
    for a, b in itertools.product(itertools.combinations(range(4), 2), repeat=2):
        in_a = np.zeros(8, bool)
        in_a[list(a)] = in_a[[4 + i for i in b]] = True
        every.append(_by_hand(values, prompt, in_a))
    drawn = permuted(values, prompt, np.array([2, 2]), 20_000, 0)
    assert {round(v, 9) for v in drawn} == {round(v, 9) for v in every}
    exact = np.mean(np.abs(every) >= max(every) - 1e-12)
    assert np.mean(np.abs(drawn) >= max(every) - 1e-9) == pytest.approx(exact, abs=0.01)


def test_without_a_difference_p_values_are_uniform_although_prompts_differ() -> None:
    rng = np.random.default_rng(1)
    prompt, in_a = np.repeat(np.arange(8), 4), np.tile([True, True, False, False], 8)
    values = [5 * rng.normal(size=8)[prompt] + rng.normal(size=32) for _ in range(120)]
    p = [difference(v, prompt, in_a, n_permutations=199, seed=i).p_value for i, v in enumerate(values)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_difference_within_prompts_is_found_where_an_ungrouped_test_is_blind() -> None:
    rng = np.random.default_rng(2)
    prompt, in_a = np.repeat(np.arange(10), 4), np.tile([True, True, False, False], 10)
    values = 10 * rng.normal(size=10)[prompt] + 0.5 * in_a + 0.2 * rng.normal(size=40)
    found = difference(values, prompt, in_a, n_permutations=999, seed=0)
    assert found.p_value == 0.001 and found.ci_low < 0.5 < found.ci_high and found.ci_low > 0
    assert stats.ttest_ind(values[in_a], values[~in_a]).pvalue > 0.2


def test_repeating_the_samples_of_prompts_does_not_make_them_more() -> None:
    """Between prompts, ten copies of each sequence are as much evidence as one."""
    rng = np.random.default_rng(3)
    values, prompt, in_a = rng.normal(size=12), np.arange(12), np.arange(12) < 6
    once = difference(values, prompt, in_a, n_permutations=499, seed=0)
    many = difference(np.repeat(values, 10), np.repeat(prompt, 10), np.repeat(in_a, 10), n_permutations=499, seed=0)
    assert once.design == BETWEEN and (once.p_value, once.difference) == (many.p_value, pytest.approx(many.difference))
    assert once.p_value == pytest.approx(
        stats.permutation_test(
            (values[:6], values[6:]), lambda a, b: a.mean() - b.mean(), n_resamples=np.inf, vectorized=False
        ).pvalue,
        abs=0.07,
    )


def test_what_cannot_be_tested_says_why() -> None:
    nothing = difference(np.full(4, np.nan), np.arange(4), np.arange(4) < 2, n_permutations=9, seed=0)
    assert np.isnan(nothing.p_value) and nothing.reason
    same = difference(np.ones(8), np.repeat([0, 1], 4), np.tile([True, False], 4), n_permutations=9, seed=0)
    assert same.p_value == 1 and same.difference == 0 and np.isnan(same.effect_size)
    assert p_value(1.0, np.array([0.0, 0.5])) == pytest.approx(1 / 3)


def test_holm() -> None:
    assert holm([0.01, 0.04, np.nan, 0.03])[:2] == pytest.approx([0.03, 0.06])
    assert np.isnan(holm([0.01, np.nan])[1]) and holm([0.6, 0.7]) == [1, 1]


def test_correlation_is_spearmans_and_its_interval_draws_prompts() -> None:
    rng = np.random.default_rng(4)
    prompt = np.repeat(np.arange(30), 10)
    shared = rng.normal(size=30)[prompt]
    x, y = shared + 0.1 * rng.normal(size=300), shared + 0.1 * rng.normal(size=300)
    x[:5] = np.nan
    found = correlation(x, y, prompt)
    assert found.spearman == pytest.approx(stats.spearmanr(x[5:], y[5:]).statistic)
    assert found.n == 295 and found.ci_low < found.spearman < found.ci_high
    narrow = correlation(x, y, np.arange(300))
    assert narrow.ci_high - narrow.ci_low < found.ci_high - found.ci_low
    assert correlation(x[:8], y[:8], prompt[:8]).reason and correlation(x, np.ones(300), prompt).reason
