"""Components, significance and ablated states from paths and the Gram matrix, against explicit vectors; words."""

import numpy as np
import pytest
from sklearn.linear_model import orthogonal_mp

from tracelake.analysis.neurons.components import AblatedStates, first_component, share_along, significant
from tracelake.analysis.neurons.judged import judge_conditions, split_problems, threshold, validate
from tracelake.analysis.neurons.sparse_words import pursue, unit_atoms

N, PATHS, WIDTH, TOP = 60, 7, 24, 25


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Paths with one strong and correlated share, and what a neuron writes through each of them."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(N, PATHS)) * np.arange(1, PATHS + 1) + 3.0
    return q + 2 * rng.normal(size=(N, 1)), rng.normal(size=(PATHS, WIDTH))


@pytest.mark.parametrize("seed", range(4))
def test_component_equals_that_of_the_explicit_vectors(seed: int) -> None:
    q, outputs = drawn(seed)
    gram = outputs @ outputs.T
    found = first_component(q, gram, TOP)
    effects = q @ outputs
    centred = effects - effects.mean(0)
    sizes = np.linalg.norm(centred, axis=1)
    far = centred[np.argsort(-sizes, kind="stable")[:TOP]]
    _, singular, right = np.linalg.svd(far, full_matrices=False)
    assert found.weights is not None and found.top_k == TOP and found.n == N
    vector = found.weights @ outputs
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-9)
    assert abs(vector @ right[0]) == pytest.approx(1, abs=1e-5)
    assert (far @ vector > 0).mean() >= 0.5
    assert found.share == pytest.approx(singular[0] ** 2 / np.square(singular).sum(), rel=1e-5)
    assert found.smallest_norm == pytest.approx(np.sort(sizes)[-TOP], rel=1e-9)
    other = drawn(seed + 10)[0]
    shifted = other @ outputs - effects.mean(0)
    explicit = np.linalg.norm(shifted, axis=1) > np.sort(sizes)[-TOP]
    np.testing.assert_array_equal(significant(other, gram, found), explicit)
    assert 0 < explicit.sum() < N
    along = np.square(shifted @ vector).sum() / np.square(shifted).sum()
    assert share_along(other, gram, found) == pytest.approx(along, rel=1e-5)


def test_ablated_states_equal_those_of_the_explicit_vectors() -> None:
    states = np.random.default_rng(9).normal(size=(N, WIDTH))
    removed = AblatedStates.of(N, WIDTH)
    wanted = {name: states.copy() for name in ("all", "significant", "insignificant", "rank1")}
    for seed in range(3):
        q, outputs = drawn(seed)
        gram, train = outputs @ outputs.T, drawn(seed + 20)[0]
        found = first_component(train, gram, TOP)
        removed.take(q, q, train.mean(0), outputs, gram, found)
        effects = q @ outputs - train.mean(0) @ outputs
        far = np.linalg.norm(effects, axis=1, keepdims=True) > found.smallest_norm
        assert found.weights is not None and far.any() and not far.all()
        unit = found.weights @ outputs
        wanted["all"] -= effects
        wanted["significant"] -= effects * far
        wanted["insignificant"] -= effects * ~far
        wanted["rank1"] -= effects - np.outer(effects @ unit, unit)
    for name, expected in wanted.items():
        np.testing.assert_allclose(states - removed.removed[name], expected, atol=1e-9)


def test_too_few_or_no_effects_have_no_component() -> None:
    q, outputs = drawn(0)
    gram = outputs @ outputs.T
    assert first_component(q[:2], gram).reason == "fewer than three effects"
    still = first_component(np.ones((5, PATHS)), gram)
    assert still.weights is None and still.reason == "no effect at all"


@pytest.mark.parametrize("dim", [12, 40])
def test_matching_pursuit_equals_the_library(dim: int) -> None:
    rng = np.random.default_rng(dim)
    atoms = unit_atoms(rng.normal(size=(90, dim)))
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1)
    vectors = rng.normal(size=(11, dim))
    found = pursue(vectors, atoms, 6)
    for vector, word, coefficient, explained in zip(
        vectors, found.word, found.coefficient, found.explained, strict=True
    ):
        theirs = orthogonal_mp(atoms.T, vector, n_nonzero_coefs=6)
        assert set(np.flatnonzero(theirs)) == set(word.tolist())
        np.testing.assert_allclose(coefficient, theirs[word], rtol=1e-6, atol=1e-9)
        left = np.square(vector - theirs @ atoms).sum() / np.square(vector).sum()
        assert explained[-1] == pytest.approx(1 - left, abs=1e-9)
        assert (np.diff(explained) >= -1e-12).all()


def test_matching_pursuit_in_blocks_stops_when_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracelake.analysis.neurons.sparse_words.BLOCK_BYTES", 8 * 3 * 4)
    rng = np.random.default_rng(1)
    atoms = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    vectors = np.stack((2 * atoms[4] - atoms[17], atoms[9], np.zeros(20)))
    found = pursue(vectors, atoms, 5)
    assert found.word.tolist() == [[4, 17, -1, -1, -1], [9, -1, -1, -1, -1], [-1] * 5]
    np.testing.assert_allclose(found.coefficient[0, :2], (2, -1))
    assert found.explained[1, 0] == pytest.approx(1) and np.isnan(found.explained[2]).all()


def test_a_word_that_is_the_mean_is_never_taken() -> None:
    words = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    assert unit_atoms(words)[2].tolist() == [0, 0]
    assert pursue(np.array([[1.0, 0.0]]), unit_atoms(words), 1).word.tolist() == [[0]]


def test_no_problem_is_on_both_sides() -> None:
    prompts = [f"p{i % 40}" for i in range(120)]
    split = split_problems(prompts, [None] * 120)
    assert not {p for p, t in zip(prompts, split.train, strict=True) if t} & {
        p for p, t in zip(prompts, split.train, strict=True) if not t
    }
    assert 0.3 < split.train.mean() < 0.9 and "three of five folds" in split.words
    own = split_problems(["a", "b", "c"], ["train", "test", "train"])
    assert own.train.tolist() == [True, False, True]


def test_conditions_are_judged_on_the_same_problems() -> None:
    rng = np.random.default_rng(2)
    right = np.where(rng.random(200) < 0.6, 1.0, 0.0)
    right[:10] = np.nan
    along = right + rng.normal(size=200)
    along[:10] = 0.0
    blind = rng.normal(size=200)
    losses = {"unedited": np.full(200, 1.0), "blind": np.full(200, 1.5)}
    edge = threshold(along[10:], right[10:])
    assert edge == pytest.approx((along[right == 1].mean() + along[right == 0].mean()) / 2)
    rows = judge_conditions({"unedited": along, "blind": blind}, losses, right, edge, "unedited")
    known = right[10:] == 1
    told = ((along[10:] > edge) == known).mean()
    pairs = (along[10:][known][:, None] > along[10:][~known]).mean()
    assert rows[0]["n_problems"] == 190 and rows[0]["accuracy"] == pytest.approx(told)
    assert rows[0]["auroc"] == pytest.approx(pairs) and rows[0]["auroc_change"] == 0
    assert rows[1]["loss_change"] == pytest.approx(0.5) and rows[1]["auroc_ci_high"] < 0
    assert rows[1]["accuracy_ci_low"] < rows[1]["accuracy_change"] < rows[1]["accuracy_ci_high"]
    one_class = judge_conditions({"unedited": along}, losses, np.ones(200), edge, "unedited")[0]
    assert one_class["reason"] == "the test split lacks a class" and "auroc" not in one_class


def test_validation_is_a_correlation_over_problems() -> None:
    rng = np.random.default_rng(3)
    second, direct = rng.normal(size=50), rng.normal(size=50)
    measured = second + direct + 0.1 * rng.normal(size=50)
    row = validate(second, direct, measured)
    assert row["correlation"] == pytest.approx(np.corrcoef(second + direct, measured)[0, 1])
    assert row["correlation_second_order"] == pytest.approx(np.corrcoef(second, measured)[0, 1])
    assert row["ci_low"] < row["measured"] < row["ci_high"] and row["reason"] is None
    assert validate(np.zeros(5), np.zeros(5), np.arange(5.0))["reason"] == "no variance"
