"""`lake analyze detect` on a lake: the tables that follow, stored detectors on another run, what is refused."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from answered_lake import ANSWERS, N_GENERATED, N_PROMPT, N_PROMPTS, SAMPLES, add_answers, answered_lake
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tracelake.analysis.detection.signals.signal import ALONE, NAMES, NOT_COMPUTABLE
from tracelake.analysis.question import Answer, ask, question_named
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, NotFoundError, UsageError

N = N_PROMPTS * SAMPLES


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    made = answered_lake(tmp_path_factory.mktemp("lake"))
    ask(made, ANSWERS, question_named("tracks"))
    ask(made, ANSWERS, question_named("tracks", profile="source", top_k=6))
    return made


def rows(lake: Lake, answer: Answer, table: str) -> pl.DataFrame:
    return lake.scan(table, answer.run_id).filter(pl.col("analysis_id") == answer.analysis_id).collect()


@pytest.fixture(scope="module")
def whole(lake: Lake) -> Answer:
    return ask(lake, ANSWERS, question_named("detect", models="logistic", repeats=1, folds=2))


def test_every_signal_is_scored_or_absent_with_a_reason(lake: Lake, whole: Answer) -> None:
    found = rows(lake, whole, "detections")
    overall = found.filter(pl.col("score") == "auroc", pl.col("control").is_null(), pl.col("within").is_null())
    assert set(NAMES) | {f"telemetry:{one}" for one in ALONE} <= set(overall["signal"])
    absent = overall.filter(pl.col("value").is_null())
    assert set(absent["signal"]) == {"text-embedding", "health", "trajectory", "lens"}
    assert absent["reason"].str.contains("lake analyze|--keep").all() and absent["model"].is_null().all()
    there = overall.filter(pl.col("value").is_not_null())
    assert (there["ci_low"] <= there["value"]).all() and (there["value"] <= there["ci_high"]).all()
    assert there["n"].unique().to_list() == [N] and there["n_prompts"].unique().to_list() == [N_PROMPTS]
    by_name = dict(there.select("signal", "value").iter_rows())
    assert by_name["majority"] == 0.5 and by_name["telemetry"] > 0.75 and by_name["probe"] > 0.75


def test_gains_controls_and_levels(lake: Lake, whole: Answer) -> None:
    found = rows(lake, whole, "detections")
    gained = found.filter(pl.col("gain").is_not_null(), pl.col("control").is_null())
    assert {"probe", "tracks", "tracks-source", "features", "consistency"} <= set(gained["signal"])
    assert "telemetry" not in set(gained["signal"]) and gained["sentence"].is_not_null().all()
    plain = found.filter(pl.col("control").is_null(), pl.col("within").is_null(), score="auroc")
    both = dict(plain.select("signal", "value").iter_rows())
    for row in gained.filter(score="auroc").iter_rows(named=True):
        assert row["gain"] == pytest.approx(both[f"telemetry+{row['signal']}"] - both["telemetry"], abs=1e-12)
    controls = set(found.filter(pl.col("control").is_not_null()).select("signal", "control").iter_rows())
    for profile in ("tracks", "tracks-source"):
        names = ("decoder permuted", "no association", "feature-id", "top-1", "labels shuffled")
        assert {(profile, control) for control in names} <= controls
    shuffled = found.filter(control="labels shuffled", score="auroc", signal="telemetry")
    assert 0.3 < shuffled["value"][0] < 0.7
    levels = found.filter(pl.col("within").is_not_null(), score="auroc", signal="telemetry")
    assert set(levels["within"]) == {"level=0", "level=1"} and levels["n"].sum() == N


def test_scores_are_out_of_fold(lake: Lake, whole: Answer) -> None:
    """The mean log-probability alone: its detectors fitted again by hand, fold by fold."""
    told = rows(lake, whole, "detection_scores").filter(signal="telemetry:mean_logprob").sort("sequence_id")
    tokens = lake.scan("token_steps", ANSWERS).filter(pl.col("step") >= 0).collect()
    means = tokens.group_by("sequence_id").agg(pl.col("logprob").cast(pl.Float64).mean()).sort("sequence_id")
    x, y, fold = means["logprob"].to_numpy(), told["label"].to_numpy(), told["fold"].to_numpy()
    prompt = lake.scan("sequences", ANSWERS).collect().sort("sequence_id")["prompt_id"].to_numpy()
    assert all(len(set(fold[prompt == one])) == 1 for one in set(prompt))
    choices = []
    for held in range(2):
        inside = fold != held
        mean, scale = x[inside].mean(), x[inside].std()
        scaled = ((x - mean) / scale)[:, None]
        fits = [
            LogisticRegression(C=c, solver="newton-cholesky", max_iter=1000).fit(scaled[inside], y[inside])
            for c in (0.01, 0.1, 1.0)
        ]
        mine = told["score"].to_numpy()[~inside]
        near = [np.abs(one.predict_proba(scaled[~inside])[:, 1] - mine).max() for one in fits]
        choices.append(min(near))
    assert max(choices) < 1e-9
    pairs = [roc_auc_score(y[fold == held], told["score"].to_numpy()[fold == held]) for held in range(2)]
    sizes = [y[fold == held].sum() * (~y[fold == held]).sum() for held in range(2)]
    found = rows(lake, whole, "detections").filter(
        pl.col("within").is_null(), pl.col("control").is_null(), signal="telemetry:mean_logprob", score="auroc"
    )
    assert found["value"][0] == pytest.approx(np.average(pairs, weights=sizes), abs=1e-12)


def test_signals_again_by_hand(lake: Lake, whole: Answer) -> None:
    from tracelake.analysis.detection.signals.collected import collected
    from tracelake.analysis.directions.question import with_labels

    sequences, _ = with_labels(lake.snapshot(ANSWERS), "correct")
    signals = {one.name: one for one in collected(lake.snapshot(ANSWERS), sequences, NAMES) if one.control is None}
    tokens = lake.scan("token_steps", ANSWERS).collect()
    mine = tokens.filter(pl.col("sequence_id") == 5, pl.col("step") >= 0)
    names = signals["telemetry"].blocks[0].columns
    row = dict(zip(names, signals["telemetry"].blocks[0].values[5], strict=True))
    assert row["sum_logprob"] == pytest.approx(mine["logprob"].cast(pl.Float64).sum())
    assert row["max_entropy"] == pytest.approx(mine["entropy_bits"].max())
    assert row["min_margin"] == pytest.approx(mine["margin"].min())
    answers = sequences["predicted_answer"].to_list()
    same = sum(answers[i] == answers[5] for i in range(3, 6)) / SAMPLES
    assert signals["consistency"].blocks[0].values[5, 0] == pytest.approx(same)
    sae_id = signals["features"].blocks[0].name
    features = lake.scan("sae_features", ANSWERS).filter(pl.col("sae_id") == sae_id).collect()
    feature = int(signals["features"].blocks[0].columns[3].rpartition(":")[2])
    active = features.filter(pl.col("sequence_id") == 5, pl.col("position") >= N_PROMPT, feature=feature)
    assert signals["features"].blocks[0].values[5, 3] == pytest.approx(active["activation"].sum() / N_GENERATED)
    vectors = {layer: next(iter(lake.vectors(layer, "resid_post", ANSWERS)))[1] for layer in (0, 1)}
    last = 5 * (N_PROMPT + N_GENERATED) + N_PROMPT + N_GENERATED - 1
    transition = signals["transitions"].blocks[0].values[5]
    np.testing.assert_allclose(transition, vectors[1][last] - vectors[0][last], atol=1e-6)


def test_stored_detectors_score_another_run(lake: Lake, whole: Answer) -> None:
    add_answers(lake, "fresh-01", seed=9)
    applied = ask(lake, "fresh-01", question_named("detect", apply=whole.analysis_id))
    told = rows(lake, applied, "detection_scores")
    assert told["fold"].is_null().all() and told.filter(signal="probe").height == N
    found = rows(lake, applied, "detections")
    value = dict(found.filter(score="auroc").select("signal", "value").iter_rows())
    truth = told.filter(signal="telemetry").sort("sequence_id")
    assert value["telemetry"] == pytest.approx(roc_auc_score(truth["label"], truth["score"]), abs=1e-12)
    assert value["telemetry"] > 0.75 and value["probe"] > 0.7 and "features" not in value
    assert any("features is not there" in one for one in applied.notices)
    stored = rows(lake, whole, "detectors")
    assert json.loads(stored.filter(signal="probe")["description"][0])["kind"] == "linear"
    with pytest.raises(NotFoundError, match="No detectors of an analysis 'detect-0'"):
        ask(lake, "fresh-01", question_named("detect", apply="detect-0"))


def test_forest_and_boosting_are_stored_too(lake: Lake) -> None:
    asked = {"signals": "telemetry", "models": "forest,boosting", "repeats": 1, "folds": 2, "controls": False}
    answer = ask(lake, ANSWERS, question_named("detect", **asked))
    again = ask(lake, "fresh-01", question_named("detect", apply=answer.analysis_id))
    found = rows(lake, again, "detections").filter(score="auroc", signal="telemetry")
    assert set(found["model"]) == {"forest", "boosting"} and (found["value"] > 0.7).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"signals": "telemetri"}, "There is no --signals 'telemetri'"),
        ({"signals": "lookback-ratio"}, NOT_COMPUTABLE["lookback-ratio"]),
        ({"signals": ","}, "names nothing"),
        ({"models": "svm"}, "There is no --models 'svm'"),
        ({"models": " "}, "names nothing"),
        ({"folds": 1}, "--folds is at least 2"),
        ({"repeats": 0}, "--repeats 1"),
        ({"folds": 400}, "only 50 prompts"),
    ],
)
def test_options_that_cannot_be(lake: Lake, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ask(lake, ANSWERS, question_named("detect", **options))


def test_labels_that_tell_nothing(lake: Lake) -> None:
    add_answers(lake, "right-01", right=1.0)
    with pytest.raises(ConfigError, match="150 .of 50 prompts. are true and 0 .of 0 prompts. false.*20 prompts"):
        ask(lake, "right-01", question_named("detect"))
    add_answers(lake, "few-01", n_prompts=15)
    with pytest.raises(ConfigError, match="needs 20 prompts with either"):
        ask(lake, "few-01", question_named("detect"))


def test_one_sample_per_prompt(lake: Lake) -> None:
    add_answers(lake, "single-01", n_prompts=80, samples=1)
    answer = ask(
        lake, "single-01", question_named("detect", signals="text,consistency,eigenscore", models="logistic", repeats=1)
    )
    found = rows(lake, answer, "detections")
    within = found.filter(score="within_prompt_auroc", signal="telemetry")
    assert within["value"].is_null().all() and within["reason"].str.contains("one sample per prompt").all()
    absent = dict(found.filter(pl.col("model").is_null()).select("signal", "reason").iter_rows())
    assert set(absent) == {"consistency", "eigenscore"}
    assert all("one sample per prompt" in one for one in absent.values())
    assert any("text: null or the same everywhere, left out: prompt_tokens" in one for one in answer.notices)
