"""Directions for steering, and what they do, against numpy on runs made by hand."""

from pathlib import Path

import numpy as np
import pytest
from made_answers import N_PROMPT, Answer, write_answers

from tracelake.analysis.directions.random_directions import RandomDirections
from tracelake.analysis.directions.stored import given_direction, stored_directions
from tracelake.analysis.question import ask
from tracelake.analysis.sampling.deviations import Deviations
from tracelake.analysis.sampling.pass_rates import PassRates
from tracelake.analysis.sampling.steering import Steering
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError, UsageError

DIM, PLACE, N = 5, ("resid_post", 1), 4


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(tmp_path / "lake")


def answers(rng: np.random.Generator, n_samples: int, **row: object) -> list[Answer]:
    """Of four problems; what a test asks about is drawn."""
    found = []
    for prompt in range(N):
        for _ in range(n_samples):
            n = int(rng.integers(2, 6))
            bits = [None] * N_PROMPT + rng.gamma(2, size=n).tolist()
            about = {
                "origin": "sampled", "temperature": 1.0, "correct": bool(rng.integers(2)),
                "solution_method": str(rng.choice(["split", "direct"])), **row,
            }  # fmt: skip
            states = {PLACE: rng.normal(size=(N_PROMPT + n, DIM))}
            found.append(Answer(f"p{prompt}", states, list(range(n)), about, {"surprisal_bits": bits}))
    return found


def edit(direction: str, strength: float) -> dict[str, object]:
    place = {"site": "resid_post", "layer": 1, "stack": "decoder", "scope": "generated"}
    return place | {"direction": direction, "change": "add", "strength": strength}


def test_deviations_are_the_singular_vectors_of_sampled_minus_greedy_states(lake: Lake) -> None:
    rng = np.random.default_rng(0)
    sampled, greedy = answers(rng, 3), answers(rng, 1, origin="greedy", temperature=0.0)
    write_answers(lake, "sampled", sampled)
    write_answers(lake, "greedy", greedy)
    answer = ask(lake, ["sampled", "greedy"], Deviations(layer="1", n=2, stride=1))
    found = stored_directions(lake, run="sampled", analysis_id=answer.analysis_id)

    def pooled(one: Answer) -> np.ndarray:
        return one.states[PLACE].astype(np.float32).astype(float)[N_PROMPT:].mean(axis=0)

    base = {one.prompt: pooled(one) for one in greedy}
    differences = np.array([pooled(one) - base[one.prompt] for one in sampled])
    _, values, rows = np.linalg.svd(differences)
    for k, one in enumerate(found):
        along = differences @ rows[k]
        wanted = rows[k] * np.sign(along.mean()) * np.sqrt(np.square(along).mean())
        np.testing.assert_allclose(one.vector, wanted, rtol=1e-5, atol=1e-6)
        assert one.norm == pytest.approx(values[k] / np.sqrt(len(differences)), rel=1e-5)
    assert [one.method for one in found] == ["singular", "singular"] and "of the squares" in answer.notices[0]


def test_a_random_direction_has_the_length_and_nothing_else(lake: Lake) -> None:
    write_answers(lake, "run", answers(np.random.default_rng(1), 1))
    vector = np.random.default_rng(2).normal(size=DIM) * 3
    name = given_direction(lake, "run", vector, "resid_post", 1, "mine.npy")
    [given] = stored_directions(lake, run="run", analysis_id=name.analysis_id)
    question = RandomDirections(directions=(given.direction_id,), draws=40)
    found = stored_directions(lake, run="run", analysis_id=ask(lake, "run", question).analysis_id)
    assert len({one.direction_id for one in found}) == 40
    assert {one.control_of for one in found} == {given.direction_id}
    np.testing.assert_allclose([one.norm for one in found], given.norm, rtol=1e-6)
    cosines = [one.vector @ given.vector / one.norm / given.norm for one in found]
    assert abs(np.mean(cosines)) < 3 / np.sqrt(40 * DIM) and np.std(cosines) > 0.2
    assert ask(lake, "run", question).computed is False
    write_answers(lake, "other", answers(np.random.default_rng(3), 1))
    again = stored_directions(lake, run="other", analysis_id=ask(lake, "other", question).analysis_id)
    assert [one.direction_id for one in again] == [one.direction_id for one in found]


def test_effects_against_numpy_problem_by_problem(lake: Lake) -> None:
    rng = np.random.default_rng(4)
    runs = {name: answers(rng, 3) for name in ("base", "steered", "random-a", "random-b")}
    write_answers(lake, "base", runs["base"])
    vector = rng.normal(size=DIM)
    stored = given_direction(lake, "base", vector, "resid_post", 1, "mine.npy").analysis_id
    [direction] = stored_directions(lake, run="base", analysis_id=stored)
    beside = ask(lake, "base", RandomDirections(directions=(direction.direction_id,), draws=2)).analysis_id
    ids = [
        direction.direction_id,
        *(one.direction_id for one in stored_directions(lake, run="base", analysis_id=beside)),
    ]
    for name, one in zip(list(runs)[1:], ids, strict=True):
        write_answers(lake, name, runs[name], edits=[edit(one, 2.0)])
    answer = ask(lake, list(runs), Steering())
    rows = lake.sql("SELECT * FROM steering_effects").to_dicts()

    def value(one: Answer, measure: str) -> float:
        if measure == "accuracy":
            return float(bool(one.row["correct"]))
        if measure == "mean_surprisal_bits":
            return float(np.mean(np.array(one.steps["surprisal_bits"][N_PROMPT:], np.float32)))
        if measure == "answer_tokens":
            return len(one.tokens)
        return float(one.row["solution_method"] == measure.removeprefix("share:"))

    def per_problem(name: str, measure: str) -> np.ndarray:
        return np.array([[value(one, measure) for one in runs[name] if one.prompt == f"p{n}"] for n in range(N)]).mean(
            1
        )

    for measure in ("accuracy", "mean_surprisal_bits", "answer_tokens", "share:split", "share:direct"):
        [row] = [one for one in rows if one["condition"] == "steered" and one["measure"] == measure]
        mine, base = per_problem("steered", measure), per_problem("base", measure)
        by_chance = (per_problem("random-a", measure) + per_problem("random-b", measure)) / 2
        assert row["value"] == pytest.approx(mine.mean(), rel=1e-5)
        assert row["change"] == pytest.approx((mine - base).mean(), rel=1e-5, abs=1e-9)
        assert row["beyond_random"] == pytest.approx((mine - by_chance).mean(), rel=1e-5, abs=1e-9)
        draws = np.random.default_rng(0)
        means = [(mine - base)[draws.integers(0, N, N)].mean() for _ in range(2000)]
        assert row["change_ci_low"] == pytest.approx(np.quantile(means, 0.025), rel=1e-5, abs=1e-9)
        assert (row["strength"], row["n_controls"], row["n_prompts"]) == (2.0, 2, N)
        [unsteered] = [one for one in rows if one["condition"] == "base" and one["measure"] == measure]
        assert unsteered["change"] is None and unsteered["value"] == pytest.approx(base.mean(), rel=1e-5)
    assert all(one["beyond_random"] is None for one in rows if one["control_of"] or one["condition"] == "base")
    assert answer.notices == ()


def test_pass_rates_name_the_direction(lake: Lake) -> None:
    write_answers(lake, "run", answers(np.random.default_rng(5), 2), edits=[edit("some-id", -3.0)])
    ask(lake, "run", PassRates())
    [row] = lake.sql("SELECT direction, layer, strength FROM pass_rates").rows()
    assert row == ("some-id", 1, -3.0)


@pytest.mark.parametrize(
    ("question", "runs", "kind", "words"),
    [
        (Steering(), ["base", "base"], ConfigError, "is not steered"),
        (Steering(), ["base", "few"], ConfigError, "not of the same problems"),
        (Steering(), ["odd", "base"], UsageError, "name the unsteered run first"),
        (Steering(), ["base", "zeroed"], ConfigError, "other edits than one direction"),
        (Steering(), ["base", "odd"], NotFoundError, "no direction 'nowhere'"),
        (Deviations(), ["base", "base"], ConfigError, "is not greedy"),
        (Deviations(n=0), ["base", "greedy"], UsageError, "--n must be 1 or more"),
        (Deviations(site="resid_pre"), ["base", "greedy"], NotFoundError, "resid_pre.*--keep activations:resid_pre"),
        (Deviations(), ["broken", "greedy"], ConfigError, "NaN or infinite states"),
        (RandomDirections(), ["base"], UsageError, "--direction ID"),
        (RandomDirections(directions=("nowhere",)), ["base"], NotFoundError, "no direction 'nowhere'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    lake: Lake, question: object, runs: list[str], kind: type[LakeError], words: str
) -> None:
    rng = np.random.default_rng(6)
    write_answers(lake, "base", answers(rng, 2))
    write_answers(lake, "few", answers(rng, 2)[:4], edits=[edit("nowhere", 1.0)])
    write_answers(lake, "odd", answers(rng, 2), edits=[edit("nowhere", 1.0)])
    write_answers(lake, "zeroed", answers(rng, 2), edits=[{"change": "zero", "site": "attn_out", "layer": 0}])
    write_answers(lake, "greedy", answers(rng, 1, origin="greedy", temperature=0.0))
    broken = answers(rng, 2)
    broken[0].states[PLACE][-1] = np.nan
    write_answers(lake, "broken", broken)
    with pytest.raises(kind, match=words):
        ask(lake, runs, question)  # type: ignore[arg-type]
    assert not lake.scan("analyses").collect().height
