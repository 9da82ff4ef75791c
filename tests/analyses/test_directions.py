"""Directions: against numpy and scikit-learn by hand, folds by problem, a planted one found, a shuffled one not."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_answers import N_PROMPT, Answer, write_answers
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from tracelake.analysis.directions.estimators import best_strength, fit, unit_length
from tracelake.analysis.directions.held_out import folds, tell, tell_shuffled
from tracelake.analysis.directions.quality import calibration_error, quality, weighted_auroc
from tracelake.analysis.directions.question import Directions
from tracelake.analysis.question import ask
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError, UsageError

DIM, N_PROMPTS, SAMPLES, N_TOKENS = 6, 80, 2, 5
PLANTED = np.array([2.0, -1.0, 0.0, 0.0, 0.5, 0.0])


def made(
    seed: int, *, planted: float = 1.0, truth: Callable[[np.random.Generator], bool] | None = None
) -> list[Answer]:
    """Two samples of each problem; layer 1 of `resid_post` carries the label along PLANTED, layer 2 does not."""
    rng = np.random.default_rng(seed)
    answers = []
    for number in range(N_PROMPTS):
        for _ in range(SAMPLES):
            right = bool(rng.random() < 0.5) if truth is None else truth(rng)
            shape = (N_PROMPT + N_TOKENS, DIM)
            noise = {layer: rng.normal(size=shape) * (1 + np.arange(DIM)) for layer in (1, 2)}
            noise[1] += planted * (1 if right else -1) * PLANTED
            row = {
                "correct": right, "metadata": json.dumps({"level": number % 2}),
                "solution_method": "split" if number % 3 else "direct",
            }  # fmt: skip
            steps = {"surprisal_bits": rng.random(N_PROMPT + N_TOKENS).tolist()}
            states = {("resid_post", layer): noise[layer] for layer in (1, 2)}
            answers.append(Answer(f"p{number}", states, list(range(N_TOKENS)), row, steps))
    return answers


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    return made(0)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, answers: list[Answer]) -> Lake:
    lake = Lake.create(tmp_path_factory.mktemp("directions") / "lake")
    write_answers(lake, "made", answers)
    return lake


def rows(lake: Lake, table: str, analysis_id: str) -> pl.DataFrame:
    return lake.sql(f"SELECT * FROM {table} WHERE analysis_id = '{analysis_id}'")


def arrays(answers: list[Answer], layer: int, at: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, labels and folds by hand."""
    pick = {
        "prompt": lambda x: x[N_PROMPT - 1],
        "answer": lambda x: x[-1],
        "mean": lambda x: x[N_PROMPT:].mean(axis=0),
    }[at]
    states = np.stack([pick(a.states["resid_post", layer].astype(np.float32).astype(float)) for a in answers])
    fold = np.array([int(hashlib.sha256(a.prompt.encode()).hexdigest(), 16) % 5 for a in answers])
    return states, np.array([a.row["correct"] for a in answers]), fold


@pytest.mark.parametrize("at", ["prompt", "answer", "mean"])
@pytest.mark.parametrize("unit", [False, True])
def test_a_difference_of_means_is_that_of_numpy(lake: Lake, answers: list[Answer], at: str, unit: bool) -> None:
    found = ask(lake, "made", Directions(layer="1", at=at, method="mean-difference", unit=unit))
    [row] = rows(lake, "directions", found.analysis_id).to_dicts()
    states, truth, _ = arrays(answers, 1, at)
    if unit:
        states = states / np.linalg.norm(states, axis=1, keepdims=True)
    right, wrong = states[truth].mean(axis=0), states[~truth].mean(axis=0)
    np.testing.assert_allclose(row["vector"], right - wrong, rtol=1e-5, atol=1e-6)
    assert row["threshold"] == pytest.approx((right + wrong) @ (right - wrong) / 2, rel=1e-6)
    assert row["norm"] == pytest.approx(np.linalg.norm(right - wrong))
    assert (row["n_right"], row["n_wrong"]) == (truth.sum(), (~truth).sum())
    assert (row["at"], row["unit"], row["site"], row["layer"], row["label"]) == (at, unit, "resid_post", 1, "correct")


def test_scores_of_unseen_problems_are_those_by_hand(lake: Lake, answers: list[Answer]) -> None:
    found = ask(lake, "made", Directions(layer="1", at="prompt", method="mean-difference"))
    scores = rows(lake, "direction_scores", found.analysis_id).filter(pl.col("kind") == "direction")
    states, truth, fold = arrays(answers, 1, "prompt")
    called, pairs, hits = np.empty(len(truth), bool), 0, 0.0
    for held in range(5):
        x, y = states[fold != held], truth[fold != held]
        right, wrong = x[y].mean(axis=0), x[~y].mean(axis=0)
        margin = states[fold == held] @ (right - wrong) - (right + wrong) @ (right - wrong) / 2
        called[fold == held] = margin > 0
        gaps = margin[truth[fold == held]][:, None] - margin[~truth[fold == held]]
        pairs, hits = pairs + gaps.size, hits + (gaps > 0).sum()
        [one] = scores.filter(pl.col("fold") == str(held)).to_dicts()
        assert one["auroc"] == pytest.approx(roc_auc_score(truth[fold == held], margin))
        assert one["accuracy"] == pytest.approx((called == truth)[fold == held].mean())
        assert one["n"] == (fold == held).sum()
    [whole] = scores.filter(pl.col("fold") == "all").to_dicts()
    assert whole["auroc"] == pytest.approx(hits / pairs)
    assert whole["accuracy"] == pytest.approx((called == truth).mean())
    assert whole["ci_low"] < whole["auroc"] < whole["ci_high"] and whole["n_prompts"] == N_PROMPTS


def test_logistic_and_lda_are_scikit_learns_on_scaled_states(answers: list[Answer]) -> None:
    states, truth, fold = arrays(answers, 1, "prompt")
    scaler = StandardScaler().fit(states)
    scaled = scaler.transform(states)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(scaled, truth)
    np.testing.assert_allclose(fit("lda", states, truth, fold).vector, lda.coef_[0] / scaler.scale_, rtol=1e-6)
    logistic = LogisticRegression(C=0.01).fit(scaled, truth)
    found = fit("logistic", states, truth, fold, 0.01)
    np.testing.assert_allclose(found.vector, logistic.coef_[0] / scaler.scale_, rtol=1e-4)
    # A margin differs from the model's decision by the threshold only.
    shift = found.margins(states) - logistic.decision_function(scaled)
    np.testing.assert_allclose(shift, shift[0], atol=1e-6)


def test_the_strength_is_chosen_by_unseen_groups() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(20), 6)
    # Every group has a coordinate that gives its labels away, and that no other group has: it must not be trusted.
    labels = rng.random(120) < 0.5
    states = np.zeros((120, 21))
    states[np.arange(120), group] = np.where(labels, 3.0, -3.0)
    states[:, 20] = np.where(labels, 1.0, -1.0) + rng.normal(size=120) * 2
    losses = []
    for strength in (1e-4, 1e-1, 100.0):
        loss = 0.0
        for held in range(20):
            model = LogisticRegression(C=strength, max_iter=2000).fit(states[group != held], labels[group != held])
            chance = model.predict_proba(states[group == held])[:, 1]
            loss -= np.log(np.where(labels[group == held], chance, 1 - chance)).sum()
        losses.append(loss)
    assert best_strength(states, labels, group, (1e-4, 1e-1, 100.0)) == (1e-4, 1e-1, 100.0)[int(np.argmin(losses))]


def test_folds_never_share_a_problem(answers: list[Answer]) -> None:
    prompts = [a.prompt for a in answers]
    states, truth, _ = arrays(answers, 1, "prompt")
    fold = folds(prompts)
    seen: list[set[str]] = []

    def spying(x: np.ndarray, y: np.ndarray, group: np.ndarray, strength: float | None) -> Any:
        inside = {prompts[int(np.flatnonzero((states == row).all(axis=1))[0])] for row in x}
        seen.append(inside)
        return fit("mean-difference", x, y, group, strength)

    told = tell(states, truth, fold, spying)
    trained = [inside for inside in seen if len(inside) > N_PROMPTS * 0.7]
    assert len(trained) == 5 and len(seen) == 25  # five fits, and four inside each for the calibration
    for held, inside in enumerate(trained):
        outside = {p for p, f in zip(prompts, fold, strict=True) if f == held}
        assert outside and not outside & inside and outside | inside == set(prompts)
    # A planted leak would show: each problem's score changes if its own label does not train it.
    flipped = truth.copy()
    flipped[fold == 0] = ~flipped[fold == 0]
    again = tell(states, flipped, fold, lambda x, y, g, s: fit("mean-difference", x, y, g, s))
    np.testing.assert_array_equal(told.score[fold == 0], again.score[fold == 0])


def test_a_planted_direction_is_found_and_a_shuffled_one_holds_chance(lake: Lake) -> None:
    found = ask(lake, "made", Directions(at="mean"))
    directions = rows(lake, "directions", found.analysis_id)
    assert directions.height == 6 and sorted(set(directions["layer"])) == [1, 2]
    scaled = PLANTED / (1 + np.arange(DIM)) ** 2  # the best direction for noise that differs by coordinate
    for row in directions.filter(pl.col("layer") == 1).to_dicts():
        wanted = PLANTED if row["method"] == "mean-difference" else scaled
        cosine = np.dot(row["vector"], wanted) / np.linalg.norm(row["vector"]) / np.linalg.norm(wanted)
        assert cosine > 0.85, row["method"]
    scores = rows(lake, "direction_scores", found.analysis_id).filter(pl.col("fold") == "all")
    for row in scores.to_dicts():
        if row["kind"] == "direction" and row["layer"] == 1:
            assert row["auroc"] > 0.9 and row["ci_low"] > 0.85
        elif row["kind"] != "baseline":
            assert row["ci_low"] < 0.5 < row["ci_high"], row
    controls = scores.filter(pl.col("kind") == "control")
    assert controls.height == 6 and set(scores.filter(pl.col("kind") == "baseline")["method"]) == {
        "majority", "prompt tokens", "mean prompt surprisal", "level", "answer tokens", "mean answer surprisal",
        "maximum answer surprisal", "mean answer entropy", "maximum answer entropy",
    }  # fmt: skip


def test_baselines_are_told_by_what_rows_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    answers = []
    for number in range(120):
        level = number % 3
        right = bool(rng.random() < (0.9, 0.5, 0.1)[level])
        shape = (N_PROMPT + N_TOKENS, DIM)
        surprisal = rng.random(N_PROMPT + N_TOKENS) + (0 if right else 1)
        steps = {"surprisal_bits": [None, *surprisal[1:].tolist()], "entropy_bits": surprisal.tolist()}
        row = {"correct": right, "metadata": json.dumps({"level": "abc"[level]})}
        states = {("resid_post", 1): rng.normal(size=shape)}
        answers.append(Answer(f"q{number}", states, list(range(N_TOKENS)), row, steps))
    lake = Lake.create(tmp_path / "lake")
    write_answers(lake, "made", answers)
    found = ask(lake, "made", Directions(at="answer", method="mean-difference"))
    scores = rows(lake, "direction_scores", found.analysis_id).filter(
        (pl.col("fold") == "all") & (pl.col("kind") == "baseline")
    )
    by_name = {row["method"]: row for row in scores.to_dicts()}
    truth = np.array([a.row["correct"] for a in answers])
    level = np.array([-(number % 3) for number in range(120)])
    assert by_name["level"]["auroc"] == pytest.approx(roc_auc_score(truth, level), abs=0.02)
    assert by_name["mean answer surprisal"]["auroc"] == 1.0 == by_name["mean answer entropy"]["auroc"]
    assert by_name["mean prompt surprisal"]["auroc"] == 1.0
    assert by_name["majority"]["auroc"] == 0.5
    assert by_name["prompt tokens"]["auroc"] == 0.5  # all prompts are of one length
    groups = {name: row["baseline_group"] for name, row in by_name.items()}
    assert {name for name, group in groups.items() if group == "before"} == {
        "majority", "prompt tokens", "mean prompt surprisal", "level",
    }  # fmt: skip


def test_within_repeats_everything_inside_each_value(lake: Lake, answers: list[Answer]) -> None:
    found = ask(lake, "made", Directions(layer="1", at="mean", method="mean-difference", within="level"))
    directions = rows(lake, "directions", found.analysis_id)
    assert set(directions["within"]) == {"level=0", "level=1", None} and directions.height == 3
    states, truth, _ = arrays(answers, 1, "mean")
    inside = np.array([json.loads(a.row["metadata"])["level"] == 1 for a in answers])
    [row] = directions.filter(pl.col("within") == "level=1").to_dicts()
    wanted = states[inside & truth].mean(axis=0) - states[inside & ~truth].mean(axis=0)
    np.testing.assert_allclose(row["vector"], wanted, rtol=1e-5)
    scores = rows(lake, "direction_scores", found.analysis_id).filter(pl.col("fold") == "all")
    assert set(scores.filter(pl.col("within") == "level=1")["kind"]) == {"direction", "control", "baseline"}
    assert set(scores.filter(pl.col("within") == "level=1")["n"].drop_nulls()) >= {int(inside.sum())}


def test_projections_are_of_every_stored_token_and_of_unseen_problems(lake: Lake, answers: list[Answer]) -> None:
    found = ask(lake, "made", Directions(layer="1", at="mean", method="mean-difference"))
    projected = rows(lake, "direction_projections", found.analysis_id).sort("sequence_id", "position")
    assert projected.height == len(answers) * (N_PROMPT + N_TOKENS)
    states, truth, fold = arrays(answers, 1, "mean")
    all_states = np.concatenate([a.states["resid_post", 1].astype(np.float32).astype(float) for a in answers])
    of_fold = np.repeat(fold, N_PROMPT + N_TOKENS)

    def along(x: np.ndarray, y: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        right, wrong = x[y].mean(axis=0), x[~y].mean(axis=0)
        return (vectors - (right + wrong) / 2) @ (right - wrong) / np.linalg.norm(right - wrong)

    np.testing.assert_allclose(projected["projection"], along(states, truth, all_states), rtol=1e-4, atol=1e-5)
    for held in range(5):
        wanted = along(states[fold != held], truth[fold != held], all_states[of_fold == held])
        np.testing.assert_allclose(projected["held_out"].to_numpy()[of_fold == held], wanted, rtol=1e-4, atol=1e-5)


def test_a_text_column_is_told_apart_by_a_value(lake: Lake, answers: list[Answer]) -> None:
    found = ask(lake, "made", Directions(layer="2", method="mean-difference", label="solution_method=direct"))
    [row] = rows(lake, "directions", found.analysis_id).to_dicts()
    assert row["n_right"] == sum(a.row["solution_method"] == "direct" for a in answers)


def test_the_same_directions_are_looked_up_and_have_the_same_name_in_another_lake(
    lake: Lake, answers: list[Answer], tmp_path: Path
) -> None:
    question = Directions(layer="1", method="mean-difference")
    first, second = ask(lake, "made", question), ask(lake, "made", question)
    assert not second.computed and first.analysis_id == second.analysis_id
    other = Lake.create(tmp_path / "lake")
    write_answers(other, "again", answers, per_segment=20)
    third = ask(other, "again", question)
    names = [rows(x, "directions", a.analysis_id)["direction_id"][0] for x, a in ((lake, first), (other, third))]
    assert names[0] == names[1] and names[0].startswith("mean-difference-resid_post-1-")
    assert other.verify("deep").ok


def test_weighted_auroc_and_calibration_error_against_their_definitions() -> None:
    rng = np.random.default_rng(2)
    score = rng.integers(0, 8, 60) / 4.0  # with ties
    labels = rng.random(60) < 0.4
    weight = rng.integers(0, 3, (5, 60)).astype(float)
    wanted = [roc_auc_score(np.repeat(labels, w.astype(int)), np.repeat(score, w.astype(int))) for w in weight]
    one_fold = np.zeros(60, int)
    np.testing.assert_allclose(weighted_auroc(score, labels, one_fold, weight), wanted)
    fold = rng.permutation(np.arange(60) % 3)
    hits = [(score[labels & (fold == f)][:, None] - score[~labels & (fold == f)]).ravel() for f in range(3)]
    gaps = np.concatenate(hits)
    wanted = ((gaps > 0) + (gaps == 0) / 2).mean()
    np.testing.assert_allclose(weighted_auroc(score, labels, fold, np.ones((1, 60))), [wanted])
    chance = rng.random(60)
    error = 0.0
    for low in np.arange(10) / 10:
        some = (chance >= low) & (chance < low + 0.1)
        if some.any():
            error += some.sum() / 60 * abs(chance[some].mean() - labels[some].mean())
    assert calibration_error(chance, labels) == pytest.approx(error)


def test_a_fold_of_one_class_has_a_reason(answers: list[Answer]) -> None:
    states, truth, fold = arrays(answers, 1, "mean")
    kept = truth | (fold == 3)  # all wrong answers are in one fold
    told = tell(states[kept], truth[kept], fold[kept], lambda x, y, g, s: fit("mean-difference", x, y, g, s))
    prompt = np.arange(int(kept.sum()))
    lacking = quality(told, truth[kept], prompt, fold[kept])
    inside = fold[kept] == 3
    assert np.isnan(told.score[inside]).all() and told.fits[3] is None
    assert lacking.reason == "one class only" and np.isnan(lacking.auroc) and lacking.n == (~inside).sum()


def test_probabilities_are_calibrated_inside_the_folds() -> None:
    states, truth, fold = arrays(made(7, planted=0.25), 1, "prompt")
    states = states * 20  # margins 400 times too sure of themselves
    told = tell(states, truth, fold, lambda x, y, g, s: fit("mean-difference", x, y, g, s))
    found = quality(told, truth, np.arange(len(truth)), fold)
    x, y = states[fold != 1], truth[fold != 1]
    margin = fit("mean-difference", x, y, fold[fold != 1]).margins(states[fold == 1])
    np.testing.assert_allclose(told.probability[fold == 1], 1 / (1 + np.exp(-np.clip(margin, -500, 500))), atol=1e-9)
    assert found.ece_before > 0.25 and found.ece_after < 0.15
    assert 0.05 < told.calibrated.min() < told.calibrated.max() < 0.999


def test_states_of_length_one_and_labels_in_another_order() -> None:
    states = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_length(states), [[0.6, 0.8], [0.0, 0.0]])
    labels, fold = np.arange(100) < 30, np.arange(100) % 5
    told = list(tell_shuffled(np.eye(100), labels, fold, lambda *a: fit("mean-difference", *a), [None] * 5))
    assert len({mixed.tobytes() for mixed, _ in told} | {labels.tobytes()}) == 11
    for mixed, margin in told:
        assert mixed.sum() == 30 and np.isfinite(margin).all()
        inside = fold != 2
        wanted = fit("mean-difference", np.eye(100)[inside], mixed[inside], fold[inside]).margins(np.eye(100)[~inside])
        np.testing.assert_allclose(margin[~inside], wanted)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"site": "resid_pots"}, NotFoundError, "resid_post"),
        ({"site": "final_norm"}, NotFoundError, "--continue made --max-new-tokens 0 --keep activations:final_norm"),
        ({"layer": "9"}, NotFoundError, "activations:resid_post@9"),
        ({"layer": "x"}, UsageError, "0,6,-1"),
        ({"at": "promt"}, UsageError, "prompt"),
        ({"method": "mean_difference"}, UsageError, "mean-difference"),
        ({"label": "corect"}, UsageError, "correct"),
        ({"label": "solution_method"}, UsageError, "solution_method=VALUE"),
        ({"label": "solution_method=spilt"}, UsageError, "split"),
        ({"within": "levle"}, UsageError, "level"),
        ({"label": "labels"}, NotFoundError, "lake import labels"),
    ],
)
def test_questions_that_cannot_be_asked(lake: Lake, options: dict[str, Any], error: type[LakeError], says: str) -> None:
    before = len(lake.analyses("made"))
    with pytest.raises(error, match=says):
        ask(lake, "made", Directions(**options))
    assert len(lake.analyses("made")) == before


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (made(1, truth=lambda _: True), "160 are true and 0 false"),
        (made(2, truth=lambda rng: bool(rng.random() < 0.97)), "needs 10 of each"),
        ([Answer(a.prompt, a.states, a.tokens) for a in made(3)[:4]], "nothing to tell apart"),
        (
            [
                Answer(a.prompt, {p: np.where(np.arange(DIM) == n % 7, np.nan, v) for p, v in a.states.items()},
                       a.tokens, a.row)
                for n, a in enumerate(made(4))
            ],
            "NaN or infinite",
        ),
    ],
    ids=["one class", "few of a class", "no labels", "not finite"],
)  # fmt: skip
def test_runs_that_hold_no_direction(tmp_path: Path, answers: list[Answer], says: str) -> None:
    lake = Lake.create(tmp_path / "lake")
    write_answers(lake, "made", answers)
    with pytest.raises(ConfigError, match=says):
        ask(lake, "made", Directions(method="mean-difference"))
    assert lake.analyses("made") == []
