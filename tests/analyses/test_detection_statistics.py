"""Detectors, folds and scores on arrays: against scikit-learn, against brute force, and on labels of chance."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from tracelake.analysis.detection.detectors.detector import Detector
from tracelake.analysis.detection.detectors.models import FITTERS, Training, fit, predict
from tracelake.analysis.detection.detectors.splits import repeated_folds
from tracelake.analysis.detection.evaluation import Design, held_out, sentence
from tracelake.analysis.detection.scoring import scores, selective
from tracelake.analysis.detection.scoring.scores import Told
from tracelake.analysis.detection.signals.signal import Block, Signal
from tracelake.analysis.detection.signals.state_signals import spreads


def made(rng: np.random.Generator, n: int = 160, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    values = rng.normal(size=(n, width))
    return values, values @ rng.normal(size=width) + rng.normal(size=n) > 0


def told_of(rng: np.random.Generator, n_prompts: int = 30, samples: int = 4) -> Told:
    prompt = np.repeat(np.arange(n_prompts), samples)
    labels = rng.random(len(prompt)) < 0.5
    probability = np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.25), 0, 1), 2)
    return Told(probability[None], labels[None], prompt, np.zeros((1, len(prompt)), np.int64))


def test_scores_are_those_of_scikit_learn() -> None:
    told = told_of(np.random.default_rng(0))
    p, y = told.probability[0], told.labels[0]
    assert scores.auroc(told).value == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert scores.auprc(told).value == pytest.approx(average_precision_score(y, p), abs=1e-12)
    assert scores.brier(told).value == pytest.approx(brier_score_loss(y, p), abs=1e-12)
    # A draw is a weight per prompt.
    for draw, weight in enumerate(scores.counts(told.n_prompts)[1:6]):
        weights = weight[told.prompt]
        for name, known in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
            value = getattr(scores, name)(told).draws[draw]
            assert value == pytest.approx(known(y, p, sample_weight=weights), abs=1e-12), name


def test_within_prompts_by_counting_pairs() -> None:
    told = told_of(np.random.default_rng(1))
    p, y = told.probability[0], told.labels[0]
    won = [
        1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0
        for i, j in itertools.permutations(range(len(p)), 2)
        if told.prompt[i] == told.prompt[j] and y[i] and not y[j]
    ]
    assert scores.within_prompt_auroc(told).value == pytest.approx(np.mean(won))
    only = told.part(np.arange(len(p)) % 4 == 0)
    assert scores.within_prompt_auroc(only).reason == scores.SINGLE and np.isnan(scores.within_prompt_auroc(only).value)


def test_calibration_error_by_hand() -> None:
    labels = np.array([[True, False, True, True]])
    told = Told(np.array([[0.95, 0.91, 0.15, 0.12]]), labels, np.arange(4), np.zeros((1, 4), np.int64))
    assert scores.calibration(told).value == pytest.approx((abs(1.86 - 1) + abs(0.27 - 2)) / 4)


def test_only_folds_are_compared() -> None:
    told = told_of(np.random.default_rng(2))
    fold = told.prompt[None] % 3
    shifted = replace(told, fold=fold, probability=told.probability + 10.0 * fold)
    assert scores.auroc(shifted).value == pytest.approx(scores.auroc(replace(told, fold=fold)).value)


def test_holm() -> None:
    assert scores.holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)


def test_risk_and_coverage_by_hand() -> None:
    labels = np.array([[True, True, False, True]])
    told = Told(np.array([[0.9, 0.8, 0.7, 0.6]]), labels, np.arange(4), np.zeros((1, 4), np.int64))
    found = selective.summaries(told)
    risks = [0, 0, 1 / 3, 1 / 4]
    assert found["risk_area"].value == pytest.approx(np.mean(risks))
    assert found["risk_area_gain"].value == pytest.approx(1 / 4 - np.mean(risks))
    assert found["coverage_at_5_risk"].value == 0.5
    coverage, risk, threshold = selective.curve(told)
    places = [int(c * 100) - 1 for c in (0.25, 0.5, 0.75, 1.0)]
    assert coverage[places].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk[places] == pytest.approx(risks) and threshold[places].tolist() == [0.9, 0.8, 0.7, 0.6]


@pytest.mark.parametrize("n_repeats", [3])
def test_a_prompt_never_lies_on_both_sides(n_repeats: int) -> None:
    prompt = np.random.default_rng(0).integers(0, 37, 300)
    folds = repeated_folds(prompt, 5, n_repeats)
    for fold in folds:
        assert all(len(set(fold[prompt == one])) == 1 for one in set(prompt))
        sizes = [len(set(prompt[fold == number])) for number in range(5)]
        assert max(sizes) - min(sizes) <= 1
    assert not np.array_equal(folds[0], folds[1])


def test_stored_detectors_predict_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(3)
    values, labels = made(rng)
    fresh = rng.normal(size=(70, 5))
    fresh[:10] = values[:10].astype(np.float32)  # on a threshold, the side is decided in single precision
    training = Training(labels, np.arange(len(labels)), strengths=(0.5,))
    scale = values.std(axis=0)
    logistic = LogisticRegression(C=0.5, max_iter=1000, random_state=42, solver="newton-cholesky")
    known = {
        "logistic": logistic.fit((values - values.mean(axis=0)) / scale, labels).predict_proba(
            (fresh - values.mean(axis=0)) / scale
        ),
        "forest": RandomForestClassifier(100, random_state=42).fit(values, labels).predict_proba(fresh),
        "boosting": GradientBoostingClassifier(random_state=42).fit(values, labels).predict_proba(fresh),
    }  # fmt: skip
    block = Block("b", tuple("abcde"), values)
    for model, wanted in known.items():
        detector, _ = fit(model, [block], np.arange(len(labels)), training)
        terms = {name: np.array(column) for name, column in detector.terms().items()}
        again = Detector.from_terms(detector.description(), terms)
        mine = predict(again, Block("b", tuple("abcde"), fresh), np.arange(len(fresh)))
        np.testing.assert_allclose(mine, wanted[:, 1], atol=1e-12, err_msg=model)


def test_a_stored_perceptron_is_the_same_again() -> None:
    values, labels = made(np.random.default_rng(4))
    detector = FITTERS["perceptron"](values, Training(labels, np.arange(len(labels))))
    detector = replace(detector, columns=tuple("abcde"), arrays={"fill": np.zeros(5), **detector.arrays})
    again = Detector.from_terms(
        detector.description(), {name: np.array(one) for name, one in detector.terms().items()}
    )  # fmt: skip
    np.testing.assert_allclose(again.predict(values), detector.predict(values), atol=1e-12)
    assert roc_auc_score(labels, again.predict(values)) > 0.7


def test_constant_and_unknown_columns() -> None:
    rng = np.random.default_rng(5)
    values, labels = made(rng)
    values[:, 1], values[:, 2] = 3.3, np.nan
    values[::7, 0] = np.nan
    block = Block("b", tuple("abcde"), values)
    assert Signal("s", (block,)).dropped() == ["b", "c"]
    detector, _ = fit("logistic", [block], np.arange(len(labels)), Training(labels, np.arange(len(labels))))
    assert detector.columns == ("a", "d", "e") and np.isfinite(predict(detector, block, np.arange(len(labels)))).all()
    assert detector.about["left_out"] == ["b", "c"]


def design_of(labels: np.ndarray, prompt: np.ndarray, n_repeats: int = 1) -> Design:
    folds = repeated_folds(prompt, 5, n_repeats)
    return Design("correct", np.arange(len(labels)), labels, prompt, folds, strengths=(0.1,))


@pytest.mark.slow
def test_labels_of_chance_are_covered() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        prompt = np.repeat(np.arange(100), 2)
        labels = rng.random(200) < rng.random(100)[prompt]
        values = rng.normal(size=(200, 3)) + rng.normal(size=(100, 3))[prompt]
        signal = Signal("s", (Block("b", ("x", "y", "z"), values),))
        low, high = scores.auroc(held_out(signal, "logistic", design_of(labels, prompt)).told).interval
        covered += low <= 0.5 <= high
    assert 184 <= covered <= 196


def test_a_planted_signal_is_found_and_adds() -> None:
    rng = np.random.default_rng(1)
    prompt = np.repeat(np.arange(60), 3)
    labels = rng.random(180) < 0.5
    noise = Block("noise", ("n",), rng.normal(size=(180, 1)))
    planted = Block("planted", ("p",), 2 * labels[:, None] + rng.normal(size=(180, 1)))
    base = Signal("telemetry", (Block("t", ("t",), labels[:, None] + 2 * rng.normal(size=(180, 1))),))
    design = design_of(labels, prompt, 2)
    signal = Signal("s", (noise, planted))
    alone = held_out(signal, "logistic", design)
    assert {place for _, place, _, _ in alone.detectors} == {1}, "the block is chosen inside the training folds"
    low, _ = scores.auroc(alone.told).interval
    assert low > 0.6
    gained = scores.gain(
        scores.auroc(held_out(signal.with_base(base), "logistic", design).told),
        scores.auroc(held_out(base, "logistic", design).told),
    )
    assert gained.low > 0 and gained.p < 0.05
    row = {"gain": gained.value, "gain_low": gained.low, "gain_high": gained.high, "p_holm": gained.p}
    assert str(sentence("s", "auroc", row)).startswith("s adds to telemetry")
    nothing = {"gain": 0.001, "gain_low": -0.01, "gain_high": 0.02, "p_holm": 1.0}
    assert "adds nothing" in str(sentence("s", "auroc", nothing))


def test_eigenscore_by_hand() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 8))
    prompt = np.array([0, 0, 0, 1, 2])
    centred = vectors[:3] - vectors[:3].mean(axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(centred @ centred.T / 8) + 1e-3
    assert spreads(vectors, prompt)[:3] == pytest.approx(np.log(eigenvalues).mean())
    assert np.isnan(spreads(vectors, prompt)[3:]).all()
