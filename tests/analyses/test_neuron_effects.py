"""Effects by neuron equal numpy and scipy by hand; a planted difference is found, a class too small is named."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind

from tracelake.analysis.neurons.effects import NeuronEffects, compare_classes
from tracelake.analysis.question import ask
from tracelake.lake import Lake
from tracelake.lake.analyses import commit_analysis
from tracelake.lake.derived import Analysis, analysis_row
from tracelake.lake.errors import NotFoundError

N, NEURONS = 60, 7


def made_lake(folder: Path, correct: list[bool | None]) -> tuple[Lake, np.ndarray, str]:
    """A run whose second-order scores are drawn; neuron 2 of layer 1 acts more in right answers."""
    lake, n = Lake.create(folder), len(correct)
    ids = np.arange(n, dtype=np.int64)
    with lake.start_run("made", {}) as run:
        with run.segment(0, (0, n)) as segment:
            segment.append(
                "sequences",
                {"sequence_id": ids, "prompt_id": [f"p{i // 2}" for i in ids], "correct": correct,
                 "n_prompt_tokens": np.full(n, 3, np.int32)},
            )  # fmt: skip
        run.finish()
    scores = np.random.default_rng(0).normal(size=(2, n, NEURONS)).astype(np.float32)
    scores[1, [one is True for one in correct], 2] += 3
    scores[0, :, 4] = 0
    analysis = Analysis("made", "second-order", {"direction": "d"}, "0" * 16)
    calls = []
    for layer in (0, 1):
        for effect, factor in (("second_order", 1), ("direct", 2)):
            columns = {"sequence_id": ids, "analysis_id": analysis.analysis_id, "effect": effect,
                       "layer": np.full(n, layer, np.int32), "scaling": "plain"}  # fmt: skip
            matrix = (factor * scores[layer]).astype(np.float32)
            calls.append({"table": "second_order_scores", "columns": columns, "vectors": matrix, "dtype": "float32"})
    commit_analysis(lake, analysis, {"analyses": analysis_row(analysis, n, [], None)}, calls)
    return lake, scores, analysis.analysis_id


def test_columns_equal_numpy_and_scipy(tmp_path: Path) -> None:
    correct = [bool(i // 2 % 2) for i in range(N)]
    lake, scores, scores_id = made_lake(tmp_path, correct)  # type: ignore[arg-type]
    answer = ask(lake, "made", NeuronEffects())
    rows = lake.scan("neuron_effects").sort("layer", "neuron").collect()
    assert rows.height == 2 * NEURONS == answer.n_rows["neuron_effects"] and set(rows["scores_id"]) == {scores_id}
    right = np.array(correct)
    p_values = []
    for layer in (0, 1):
        x, part = scores[layer].astype(np.float64), rows.filter(layer=layer)
        np.testing.assert_allclose(part["mean"], x.mean(0), atol=1e-6)
        np.testing.assert_allclose(part["sd"], x.std(0, ddof=1), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(part["mean_abs"], np.abs(x).mean(0), rtol=1e-5)
        np.testing.assert_allclose(part["direct_effect"], 2 * x.mean(0), atol=1e-5)
        centred = x - x.mean(0)
        far = np.abs(centred) > 2 * np.sqrt((centred**2).mean())
        np.testing.assert_allclose(part["share_significant"], far.mean(0))
        # Two samples a prompt, always of one class: the value of a prompt is their mean.
        prompts = x.reshape(N // 2, 2, NEURONS).mean(1)
        a, b = prompts[right[::2]], prompts[~right[::2]]
        np.testing.assert_allclose(part["difference"], a.mean(0) - b.mean(0), atol=1e-6)
        np.testing.assert_allclose(part["mean_right"], a.mean(0), atol=1e-6)
        moving = prompts.std(0) > 0
        expected = ttest_ind(a[:, moving], b[:, moving], equal_var=False).pvalue
        np.testing.assert_allclose(part["p_value"].to_numpy()[moving], expected, rtol=1e-6)
        p_values += expected.tolist()
        inside = (part["ci_low"] <= part["difference"]) & (part["difference"] <= part["ci_high"])
        assert inside.all() and set(part["n_right"]) == {N // 2}
    still = rows.filter(layer=0, neuron=4).row(0, named=True)
    assert still["p_value"] is None and still["reason"] == "no variance" and still["share_significant"] == 0
    order = np.sort(p_values)
    found = np.sort(rows["p_holm"].drop_nulls().to_numpy())
    steps = np.minimum(1, np.maximum.accumulate(order * (len(order) - np.arange(len(order)))))
    np.testing.assert_allclose(found, steps, rtol=1e-6)
    planted = rows.filter(layer=1, neuron=2).row(0, named=True)
    assert planted["p_holm"] < 1e-6 and planted["ci_low"] > 2
    assert rows.filter(layer=1).filter(rows.filter(layer=1)["p_holm"] < 0.05)["neuron"].to_list() == [2]


def test_the_interval_is_that_of_prompts_drawn_with_replacement() -> None:
    rng = np.random.default_rng(5)
    x, right = rng.normal(size=(80, 3)), np.arange(80) < 30
    found = compare_classes(x, np.array([f"p{i}" for i in range(80)]), right, ~right)
    draws = []
    for _ in range(4000):
        chosen = rng.integers(0, 80, 80)
        draws.append(x[chosen][right[chosen]].mean(0) - x[chosen][~right[chosen]].mean(0))
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    np.testing.assert_allclose(found["ci_low"], low, atol=0.05)
    np.testing.assert_allclose(found["ci_high"], high, atol=0.05)


@pytest.mark.parametrize(
    ("correct", "reason"),
    [([None] * N, "no labels"), ([True] * N, "fewer than 10 prompts of a class"),
     ([i >= 10 for i in range(N)], "fewer than 10 prompts of a class")],
)  # fmt: skip
def test_classes_that_cannot_be_compared_are_null_with_a_reason(
    correct: list[bool | None], reason: str, tmp_path: Path
) -> None:
    lake, _, _ = made_lake(tmp_path, correct)
    answer = ask(lake, "made", NeuronEffects())
    rows = lake.scan("neuron_effects").collect()
    for column in ("difference", "ci_low", "p_value", "p_holm", "mean_right"):
        assert rows[column].null_count() == rows.height
    assert set(rows["reason"]) == {reason} and reason in answer.notices[0] and rows["mean"].null_count() == 0


def test_a_run_without_scores_names_the_command(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    with lake.start_run("bare", {}) as run:
        run.finish()
    with pytest.raises(NotFoundError, match="lake experiment second-order bare"):
        ask(lake, "bare", NeuronEffects())
    made, _, scores_id = made_lake(tmp_path / "other", [True] * 4)
    with pytest.raises(NotFoundError, match=f"Possible: {scores_id}"):
        ask(made, "made", NeuronEffects(scores_id="second-order-1"))
