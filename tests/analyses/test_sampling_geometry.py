"""Pooled states, variance, oracle distances, sensitivity and pass rates against numpy on runs made by hand."""

import json
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_answers import N_PROMPT, Answer, write_answers

from tracelake.analysis.intervals import drawn_counts, jackknife_errors, mean_over_prompts
from tracelake.analysis.question import ask
from tracelake.analysis.sampling.distances import distance
from tracelake.analysis.sampling.oracle import OracleDistances
from tracelake.analysis.sampling.pass_rates import PassRates, pass_at_k
from tracelake.analysis.sampling.pooling import Pooling, default_stride
from tracelake.analysis.sampling.sensitivity import Sensitivity
from tracelake.analysis.sampling.spread import Spread, spreads
from tracelake.analysis.sampling.variance import Variance
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError, UsageError

DIM = 3
PLACE = ("resid_post", 1)


def answer(prompt: str, rng: np.random.Generator, n: int, *, scale: float = 1.0, **row: Any) -> Answer:
    states = rng.normal(size=(N_PROMPT + n, DIM)) * scale
    about = {"origin": "sampled", "temperature": 1.0, **row}
    return Answer(prompt, {PLACE: states}, list(range(n)), about)


def of_steps(one: Answer) -> np.ndarray:
    return one.states[PLACE].astype(np.float32).astype(float)[N_PROMPT:]


def rows(lake: Lake, table: str, analysis_id: str) -> list[dict[str, Any]]:
    return lake.sql(f"SELECT * FROM {table} WHERE analysis_id = '{analysis_id}'").to_dicts()


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("checkpoint", [None, 4, 7])
def test_pooled_steps_are_those_of_the_definition(stride: int, window: int | None, checkpoint: int | None) -> None:
    pooling = Pooling(stride, window, checkpoint)
    for n in range(12):
        for first in (0, 1, 2, 5):
            wanted = [t for t in range(stride - 1, n, stride) if checkpoint is None or t < checkpoint]
            wanted = wanted if window is None else wanted[-window:]
            wanted = [t for t in wanted if t >= first]
            step = np.arange(-3, 14)
            length = np.full(len(step), n)
            assert step[pooling.picked(step, length, np.full(len(step), first))].tolist() == wanted
            assert pooling.expected(np.array([n]), np.array([first]))[0] == len(wanted)


def test_spread_against_numpy() -> None:
    rng = np.random.default_rng(0)
    sets, group = rng.normal(size=(3, 7, 4)) + 2, np.array([0, 0, 1, 1, 1, 2, 2])
    for vectors, found in zip(sets, spreads(sets, np.stack([group] * 3)), strict=True):
        assert_spread_as_numpy(vectors, group, found)


def assert_spread_as_numpy(vectors: np.ndarray, group: np.ndarray, found: Spread) -> None:
    assert found.tr_cov == pytest.approx(np.trace(np.cov(vectors.T)))
    assert found.relative_variance == pytest.approx(found.tr_cov / np.square(vectors).sum(axis=1).mean())
    pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(vectors, 2)]
    assert found.mean_pairwise_cosine == pytest.approx(np.mean(pairs))
    left_out = np.array([np.trace(np.cov(np.delete(vectors, i, 0).T)) for i in range(7)])
    assert found.se_tr_cov == pytest.approx(np.sqrt(6 / 7 * np.square(left_out - left_out.mean()).sum()))
    within = sum(np.square(vectors[group == g] - vectors[group == g].mean(axis=0)).sum() for g in range(3)) / 6
    assert found.tr_cov_between + within == pytest.approx(found.tr_cov)
    assert found.reason is None


def test_spreads_that_are_none() -> None:
    [one] = spreads(np.ones((1, 1, 3)))
    assert np.isnan(one.tr_cov) and one.reason == "fewer than two samples"
    [greedy] = spreads(np.ones((1, 1, 3)), greedy=True)
    assert (greedy.tr_cov, greedy.mean_pairwise_cosine, greedy.reason) == (0.0, 1.0, "greedy")
    zero, fine = spreads(np.array([[[0.0, 0.0], [1.0, 1.0], [1.0, 2.0]], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]]))
    assert zero.tr_cov == pytest.approx(np.trace(np.cov(np.array([[0, 0], [1, 1], [1, 2]]).T)))
    assert np.isnan(zero.mean_pairwise_cosine) and zero.reason == "a zero vector has no cosine"
    assert fine.mean_pairwise_cosine == pytest.approx(1.0) and fine.reason is None
    [nothing] = spreads(np.zeros((1, 3, 2)))
    assert np.isnan(nothing.relative_variance) and nothing.reason == "all vectors are zero; a zero vector has no cosine"
    [two] = spreads(np.array([[[1.0, 0.0], [0.0, 1.0]]]))
    assert two.tr_cov == 1.0 and np.isnan(two.se_tr_cov) and "three samples" in str(two.reason)


def test_an_interval_draws_problems() -> None:
    values = np.random.default_rng(3).normal(size=40)
    found = mean_over_prompts(values)
    rng = np.random.default_rng(0)
    means = [values[rng.integers(0, 40, 40)].mean() for _ in range(2000)]
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert found.mean == pytest.approx(values.mean())
    assert sum(counts.sum() for counts in drawn_counts(7, 30)) == 7 * 30
    assert mean_over_prompts(np.array([np.nan, 2.0])).reason == "only one prompt"
    assert np.isnan(jackknife_errors(np.array([[1.0]]))[0])


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, list[Answer]]:
    """Five problems of four samples, with and without an end token, some shorter than the last checkpoint."""
    rng = np.random.default_rng(1)
    lake = Lake.create(tmp_path_factory.mktemp("sampled") / "lake")
    answers = []
    for prompt in range(5):
        for sample in range(4):
            reason = "eos" if sample % 2 else "length"
            row = {"finish_reason": reason, "solution_method": "split" if sample < 2 else "direct"}
            answers.append(answer(f"p{prompt}", rng, 4 + (prompt + 3 * sample) % 6, scale=1 + prompt, **row))
    write_answers(lake, "made", answers, per_segment=7)
    return lake, answers


def pooled_by_hand(one: Answer, stride: int, checkpoint: int | None, window: int | None = None) -> np.ndarray | None:
    states = of_steps(one)
    states = states[: len(states) - (one.row["finish_reason"] == "eos")]
    if checkpoint is not None and len(states) < checkpoint:
        return None
    picked = [t for t in range(stride - 1, len(states), stride) if checkpoint is None or t < checkpoint]
    picked = picked if window is None else picked[-window:]
    return states[picked].mean(axis=0) if picked else None


@pytest.mark.parametrize(("stride", "window"), [(1, None), (2, None), (1, 2)])
def test_variance_of_a_run_against_numpy(sampled: tuple[Lake, list[Answer]], stride: int, window: int | None) -> None:
    lake, answers = sampled
    question = Variance(stride=stride, window=window, checkpoints=(4, 6), within="solution_method")
    found = rows(lake, "sampling_variance", ask(lake, "made", question).analysis_id)
    for checkpoint in (4, 6):
        values = []
        for prompt in range(5):
            own = [pooled_by_hand(a, stride, checkpoint, window) for a in answers[4 * prompt : 4 * prompt + 4]]
            kept = [one for one in own if one is not None]
            [row] = [r for r in found if r["prompt_id"] == f"p{prompt}" and r["checkpoint"] == checkpoint]
            assert (row["n_samples"], row["n_reached"], row["n_pooled"]) == (4, len(kept), len(kept))
            if len(kept) < 2:
                assert row["tr_cov"] is None and row["reason"] == "fewer than two samples"
                continue
            values.append(np.trace(np.atleast_2d(np.cov(np.array(kept).T))))
            assert row["tr_cov"] == pytest.approx(values[-1], rel=1e-5)
            assert row["tr_cov_between"] <= row["tr_cov"] * (1 + 1e-9)
        [whole] = [r for r in found if r["prompt_id"] is None and r["checkpoint"] == checkpoint]
        assert whole["tr_cov"] == pytest.approx(np.mean(values), rel=1e-5)
        assert whole["n_prompts"] == len(values) and whole["ci_low"] <= whole["tr_cov"] <= whole["ci_high"]
        assert (whole["stride"], whole["window"], whole["within"]) == (stride, window, "solution_method")


def test_short_answers_may_be_included(sampled: tuple[Lake, list[Answer]]) -> None:
    lake, _ = sampled
    counts = {}
    for short in ("exclude", "include"):
        found = ask(lake, "made", Variance(stride=1, checkpoints=(8,), short=short))  # type: ignore[arg-type]
        [whole] = [r for r in rows(lake, "sampling_variance", found.analysis_id) if r["prompt_id"] is None]
        counts[short] = (whole["n_pooled"], whole["n_reached"])
        assert "end before the last checkpoint" in " ".join(found.notices)
    assert counts["include"][0] == 20 and counts["exclude"][0] == counts["exclude"][1] == counts["include"][1] < 10


def test_the_stride_follows_the_lengths(sampled: tuple[Lake, list[Answer]]) -> None:
    assert default_stride(np.array([10, 63, 200])) == 1 and default_stride(np.array([10, 64, 200])) == 32
    lake, _ = sampled
    assert ask(lake, "made", Variance()).parameters["stride"] == 1


def test_greedy_answers_have_no_variance_and_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    lake = Lake.create(tmp_path / "lake")
    write_answers(lake, "made", [answer(f"p{n}", rng, 5, origin="greedy", temperature=0.0) for n in range(3)])
    found = rows(lake, "sampling_variance", ask(lake, "made", Variance()).analysis_id)
    assert {(r["tr_cov"], r["mean_pairwise_cosine"]) for r in found} == {(0.0, 1.0)}
    assert {r["reason"] for r in found if r["prompt_id"]} == {"greedy"}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"stride": 0}, UsageError, "--stride"),
        ({"checkpoints": (0,)}, UsageError, "--checkpoint"),
        ({"site": "resid_mid"}, NotFoundError, "--keep activations:resid_mid"),
        ({"layer": "3"}, NotFoundError, "resid_post@3"),
        ({"within": "methd"}, UsageError, "possible|Possible"),
    ],
)
def test_variance_that_cannot_be(
    sampled: tuple[Lake, list[Answer]], options: dict[str, Any], error: type[LakeError], says: str
) -> None:
    with pytest.raises(error, match=says):
        ask(sampled[0], "made", Variance(**options))


def test_one_sample_and_broken_states_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    lake = Lake.create(tmp_path / "lake")
    write_answers(lake, "one", [answer(f"p{n}", rng, 5) for n in range(3)])
    with pytest.raises(ConfigError, match="--samples 8"):
        ask(lake, "one", Variance())
    write_answers(lake, "broken", [answer("p", rng, 5, scale=np.nan if n else 1.0) for n in range(3)])
    with pytest.raises(ConfigError, match="NaN or infinite"):
        ask(lake, "broken", Variance())
    write_answers(lake, "read", [answer("p", rng, 5, origin="read") for _ in range(3)])
    with pytest.raises(ConfigError, match="wrote by itself"):
        ask(lake, "read", Variance())
    assert lake.analyses() == []


def test_distances_by_hand() -> None:
    found = distance(np.array([3.0, 0.0]), np.array([0.0, 4.0]))
    assert (found.distance, found.cosine, found.relative_distance) == (5.0, 0.0, 1.25)
    assert distance(np.array([np.nan]), np.ones(1), "answer: too short").reason == "answer: too short"
    assert np.isnan(distance(np.zeros(2), np.ones(2)).cosine)


def test_oracle_distances_free_and_forced(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    lake = Lake.create(tmp_path / "lake")
    free = [answer(f"p{n}", rng, 8, origin="greedy", temperature=0.0) for n in range(3)]
    write_answers(lake, "free", free)
    oracle = [
        answer(f"p{n}", rng, 10, origin="oracle", metadata=json.dumps({"retokenised": n == 1} if n else {}))
        for n in range(2)
    ]
    forced = []
    for n in range(2):
        for n_prefix in (1, 3):
            one = answer(f"p{n}", rng, 9, origin="forced", temperature=0.0)
            marks = [False] * N_PROMPT + [step < n_prefix for step in range(9)]
            forced.append(Answer(one.prompt, one.states, one.tokens, one.row, {"is_forced": marks}))
    write_answers(lake, "given", [*oracle, *forced])
    found = ask(lake, ["free", "given"], OracleDistances(stride=1))
    table = rows(lake, "oracle_distances", found.analysis_id)
    assert "1 answers have no oracle" in found.notices[0]

    def gap(one: Answer, other: Answer, first: int) -> float:
        return float(np.linalg.norm(of_steps(one)[first:].mean(axis=0) - of_steps(other)[first:].mean(axis=0)))

    for n in range(2):
        mine = [r for r in table if r["prompt_id"] == f"p{n}"]
        assert len(mine) == 3 + 4  # free: whole and two rests; two forced: whole and rest
        [whole] = [r for r in mine if r["condition"] == "free" and r["scope"] == "whole"]
        assert whole["distance"] == pytest.approx(gap(free[n], oracle[n], 0), rel=1e-5)
        assert whole["answer_run_id"] == "free" and whole["oracle_run_id"] == "given"
        assert whole["retokenised"] == (None if n == 0 else True)
        norm = np.linalg.norm(of_steps(oracle[n]).mean(axis=0))
        assert whole["relative_distance"] == pytest.approx(whole["distance"] / norm, rel=1e-5)
        for place, n_prefix in enumerate((1, 3)):
            [row] = [
                r for r in mine if r["condition"] == "forced" and r["scope"] == "rest" and r["n_prefix"] == n_prefix
            ]
            before, after = gap(free[n], oracle[n], n_prefix), gap(forced[2 * n + place], oracle[n], n_prefix)
            assert row["distance"] == pytest.approx(after, rel=1e-5)
            assert row["improvement"] == pytest.approx(before - after, rel=1e-4)
            assert row["share"] == pytest.approx(n_prefix / 10) and row["n_tokens"] == 9 - n_prefix
            assert row["n_oracle_tokens"] == 10 - n_prefix
    with pytest.raises(NotFoundError, match="--given FILE"):
        ask(lake, "free", OracleDistances(stride=1))


def branches_by_hand(lake: Lake) -> tuple[list[Answer], list[Answer]]:
    """Two baselines of 10 tokens (one ends), and branches at steps 2 and 7 that keep states from there on."""
    rng = np.random.default_rng(6)
    baselines, branches = [], []
    for n in range(2):
        best = [[7, 8, 9]] * (N_PROMPT + 10)
        steps = {
            "topk_ids": best, "topk_logprobs": [[-0.5, -1.0, -2.0]] * (N_PROMPT + 10),
            "logprob": [-0.5] * (N_PROMPT + 10),
        }  # fmt: skip
        row = {"origin": "greedy", "temperature": 0.0, "finish_reason": "eos" if n else "stop_string",
               "predicted_answer": "4"}  # fmt: skip
        states = {PLACE: rng.normal(size=(N_PROMPT + 10, DIM))}
        baselines.append(Answer(f"p{n}", states, [7] * 10, row, steps))
        for step in (2, 7):
            tokens = [7] * step + [9] + [7 if t % 2 else 5 for t in range(step + 1, 12)]
            row = {
                "origin": "forced", "parent_run_id": "base", "parent_sequence_id": n, "temperature": 0.0,
                "branch_position": N_PROMPT + step, "predicted_answer": "4" if step == 2 else "5",
                "correct": step == 2,
                "finish_reason": "length" if n and step == 7 else "stop_string",
            }  # fmt: skip
            branches.append(Answer(f"p{n}", {PLACE: rng.normal(size=(N_PROMPT + 12, DIM))}, tokens, row))
    write_answers(lake, "base", baselines)
    write_answers(lake, "branches", branches)
    return baselines, branches


def test_sensitivity_against_numpy(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    baselines, branches = branches_by_hand(lake)
    found = ask(lake, ["base", "branches"], Sensitivity(lookahead=4))
    table = {(r["sequence_id"], r["step"]): r for r in rows(lake, "path_sensitivity", found.analysis_id)}
    for n in range(2):
        for place, step in enumerate((2, 7)):
            row, branch = table[n, step], branches[2 * n + place]
            length = 9 if n else 10  # the end token does not count
            mine, theirs = of_steps(baselines[n])[:length], of_steps(branch)
            window = slice(step + 1, step + 4)
            gap = mine[window].mean(axis=0) - theirs[window].mean(axis=0)
            assert row["divergence"] == pytest.approx(np.linalg.norm(gap), rel=1e-5)
            gap = mine[step : step + 4].mean(axis=0) - theirs[step : step + 4].mean(axis=0)
            assert row["divergence_with_forced"] == pytest.approx(np.linalg.norm(gap), rel=1e-5)
            n_baseline = len(mine[window])
            assert (row["n_baseline"], row["n_branch"]) == (n_baseline, 3)
            assert row["complete"] == (n_baseline == 3)
            assert (row["token_id"], row["alternative_id"], row["alternative_rank"]) == (7, 9, 2)
            assert row["margin"] == pytest.approx(1.5)
            equal = [a == b for a, b in zip([7] * length, branch.tokens, strict=False)][step + 1 : step + 4]
            assert row["n_equal_tokens"] == sum(equal)
            if n and step == 7:  # cut by length: its last number is no answer
                assert row["answer_changed"] is None is row["branch_answer"] is row["branch_correct"]
                assert "the branch ended before an answer" in row["reason"]
            else:
                assert row["answer_changed"] == (step == 7) and row["branch_correct"] == (step == 2)
            assert row["branch_run_id"] == "branches" and row["branch_sequence_id"] == 2 * n + place
            assert row["position"] == N_PROMPT + step and row["lookahead"] == 4
    assert "2 of 4 windows of 4 tokens are complete" in found.notices[0]


def test_a_missing_window_is_as_long_as_the_longest_branch_and_has_reasons(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    branches_by_hand(lake)
    found = ask(lake, ["base", "branches"], Sensitivity())
    table = rows(lake, "path_sensitivity", found.analysis_id)
    assert {row["lookahead"] for row in table} == {10} and not any(row["complete"] for row in table)
    with pytest.raises(UsageError, match="--lookahead"):
        ask(lake, ["base", "branches"], Sensitivity(lookahead=1))
    with pytest.raises(NotFoundError, match="--branch-from branches"):
        ask(lake, ["branches", "base"], Sensitivity())


@pytest.mark.parametrize(("n", "c", "k"), [(8, 3, 1), (8, 3, 4), (8, 0, 8), (8, 6, 5), (3, 3, 3)])
def test_pass_at_k_counts_subsets(n: int, c: int, k: int) -> None:
    hits = [any(one < c for one in chosen) for chosen in combinations(range(n), k)]
    assert pass_at_k(n, c, k) == pytest.approx(np.mean(hits)) and len(hits) == comb(n, k)
    assert np.isnan(pass_at_k(n, c, n + 1))


def test_pass_rates_of_runs_beside_each_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    lake = Lake.create(tmp_path / "lake")
    right = {"one": [3, 0, 1], "two": [4, 4, 2]}
    for run, counts in right.items():
        made = [answer(f"p{p}", rng, 3, correct=s < c) for p, c in enumerate(counts) for s in range(4)]
        write_answers(lake, run, made)
    table = rows(lake, "pass_rates", ask(lake, ["one", "two"], PassRates(ks=(1, 2, 5))).analysis_id)
    for run, counts in right.items():
        [first], [second], [fifth] = ([r for r in table if r["condition"] == run and r["k"] == k] for k in (1, 2, 5))
        assert first["pass_at_k"] == pytest.approx(sum(counts) / 12)
        assert second["pass_at_k"] == pytest.approx(np.mean([pass_at_k(4, c, 2) for c in counts]))
        assert fifth["pass_at_k"] is None and "3 prompts have fewer than 5 samples" in fifth["reason"]
        assert (first["n_samples"], first["n_correct"], first["n_prompts"]) == (12, sum(counts), 3)
    with pytest.raises(UsageError, match="--k"):
        ask(lake, "one", PassRates(ks=(0,)))
    write_answers(lake, "ungraded", [answer("p", rng, 3) for _ in range(2)])
    with pytest.raises(ConfigError, match="graded"):
        ask(lake, "ungraded", PassRates())


def test_a_question_is_looked_up_the_second_time(sampled: tuple[Lake, list[Answer]]) -> None:
    lake, _ = sampled
    first, second = (ask(lake, "made", Variance(checkpoints=(5, 4))) for _ in range(2))
    assert first.computed and not second.computed and first.analysis_id == second.analysis_id
    assert first.parameters["checkpoints"] == [4, 5]
    assert lake.verify("deep").ok
    assert pl.DataFrame(rows(lake, "sampling_variance", first.analysis_id)).height == 2 * 6
