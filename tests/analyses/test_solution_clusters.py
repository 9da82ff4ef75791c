"""Clusters of correct solutions: against scikit-learn, planted kinds found, repeated texts, problems too small."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_answers import N_PROMPT, Answer, write_answers
from sklearn.cluster import HDBSCAN, AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from tracelake.analysis.question import ask
from tracelake.analysis.sampling.clustering import Clusters, agreement, cluster, principal_plane
from tracelake.analysis.sampling.clusters import SolutionClusters
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, NotFoundError, UsageError

PLACE, DIM = ("resid_post", 3), 4
KINDS = {"split": np.array([4.0, 0, 0, 0]), "direct": np.array([0, 4.0, 0, 0])}


def planted(seed: int, sizes: tuple[int, ...], spread: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.eye(len(sizes), DIM) * 6
    return np.concatenate([rng.normal(size=(n, DIM)) * spread + c for n, c in zip(sizes, centres, strict=True)])


def test_the_number_of_clusters_is_the_best_silhouettes() -> None:
    vectors = planted(0, (6, 4, 3))
    for method in ("kmeans", "agglomerative"):
        found = cluster(vectors, method)  # type: ignore[arg-type]
        assert found.k == 3
        assert np.bincount(found.cluster).tolist() == [6, 4, 3]
        assert found.silhouette == pytest.approx(silhouette_score(vectors, found.cluster))
    labels = KMeans(3, random_state=42, n_init=10).fit_predict(vectors)
    assert adjusted_rand_score(labels, cluster(vectors, "kmeans", 3).cluster) == 1.0
    labels = AgglomerativeClustering(2, metric="cosine", linkage="average").fit_predict(vectors)
    assert adjusted_rand_score(labels, cluster(vectors, "agglomerative", 2).cluster) == 1.0
    noisy = np.concatenate([vectors, [[60.0, 0, 0, 0]]])
    labels = HDBSCAN(min_cluster_size=2, copy=True).fit_predict(noisy)
    assert adjusted_rand_score(labels, cluster(noisy, "hdbscan").cluster) == 1.0
    assert np.isnan(cluster(noisy, "hdbscan").centroid_distance[labels == -1]).all()


def test_what_has_no_kinds_is_one_cluster() -> None:
    even = np.eye(DIM)  # every two are equally far apart
    found = cluster(even, "kmeans")
    assert found.k == 1 and np.isnan(found.silhouette) and len(found.representative) == 1


def test_representatives_are_nearest_to_the_centroid() -> None:
    vectors = planted(1, (7, 5))
    found: Clusters = cluster(vectors, "kmeans", 2)
    for number in range(2):
        members = np.flatnonzero(found.cluster == number)
        gaps = np.linalg.norm(vectors[members] - vectors[members].mean(axis=0), axis=1)
        assert found.representative[number] == members[np.argmin(gaps)]
        np.testing.assert_allclose(found.centroid_distance[members], gaps)


def test_the_plane_is_that_of_the_covariance() -> None:
    vectors = planted(2, (5, 5))
    plane = principal_plane(vectors)
    values = np.sort(np.linalg.eigvalsh(np.cov(vectors.T)))[::-1]
    np.testing.assert_allclose(plane.var(axis=0, ddof=1), values[:2])
    assert plane[np.abs(plane[:, 0]).argmax(), 0] > 0
    assert principal_plane(np.ones((3, 1))).tolist() == [[0, 0]] * 3
    assert principal_plane(np.random.default_rng(0).normal(size=(2, 9)))[:, 1].tolist() == [0, 0]  # a line


def test_agreement_is_scikit_learns() -> None:
    assert agreement(["a", "a", "b"], [1, 1, 0]) == 1.0
    assert agreement(["a", "b", "a", "b"], [0, 0, 1, 1]) == adjusted_rand_score([0, 1, 0, 1], [0, 0, 1, 1])


def solutions(seed: int = 0, n_problems: int = 4, per_kind: int = 3) -> list[Answer]:
    """Problems whose own mean is far larger than the difference between both kinds of solutions."""
    rng = np.random.default_rng(seed)
    answers = []
    for problem in range(n_problems):
        own = rng.normal(size=DIM) * 50
        for kind, centre in KINDS.items():
            for number in range(per_kind):
                states = rng.normal(size=(N_PROMPT + 3, DIM)) * 0.2 + own + centre
                row = {
                    "origin": "sampled", "temperature": 1.0, "correct": True, "solution_method": kind,
                    "completion": f"{kind} {number}",
                }  # fmt: skip
                answers.append(Answer(f"p{problem}", {PLACE: states}, [1, 2, 3], row))
    return answers


def rows(lake: Lake, table: str, analysis_id: str) -> list[dict[str, Any]]:
    return lake.sql(f"SELECT * FROM {table} WHERE analysis_id = '{analysis_id}'").to_dicts()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake.create(tmp_path_factory.mktemp("clusters") / "lake")
    answers = solutions()
    again = Answer(answers[0].prompt, answers[0].states, answers[0].tokens, answers[0].row)
    wrong = Answer("p0", answers[0].states, [1, 2, 3], {**answers[0].row, "correct": False, "completion": "wrong"})
    lonely = Answer("p9", answers[0].states, [1, 2, 3], {**answers[0].row, "completion": "alone"})
    write_answers(lake, "made", [*answers, again, wrong, lonely])
    return lake


def test_planted_kinds_are_found_in_each_problem(lake: Lake) -> None:
    found = ask(lake, "made", SolutionClusters(method="kmeans,agglomerative"))
    summaries = rows(lake, "cluster_summaries", found.analysis_id)
    for method in ("kmeans", "agglomerative"):
        own = {row["prompt_id"]: row for row in summaries if row["method"] == method}
        for problem in range(4):
            row = own[f"p{problem}"]
            assert (row["k"], row["ari_method"], row["n_distinct_texts"], row["n_pairs"]) == (2, 1.0, 6, 1)
        assert own["p0"]["n_correct"] == 7 and own["p1"]["n_correct"] == 6
        assert own["p9"]["k"] is None and own["p9"]["reason"] == "fewer than 3 different solutions"
        assert own[None]["ari_method"] == 1.0 and own[None]["n_prompts"] == 4
        assert own[None]["n_verdicts"] == 0 and own[None]["distinctness"] is None
    solved = rows(lake, "solution_clusters", found.analysis_id)
    [repeated] = [row for row in solved if row["same_text_as"] is not None and row["method"] == "kmeans"]
    assert (repeated["sequence_id"], repeated["same_text_as"], repeated["cluster"]) == (24, 0, None)
    best = [row for row in solved if row["is_representative"] and row["method"] == "kmeans"]
    assert len(best) == 8 and 25 not in {row["sequence_id"] for row in solved}


def test_over_problems_each_mean_is_taken_off(lake: Lake) -> None:
    found = ask(lake, "made", SolutionClusters(method="kmeans", scope="all", k=2))
    [row] = rows(lake, "cluster_summaries", found.analysis_id)
    assert row["ari_method"] == 1.0 and row["prompt_id"] is None and row["n_distinct_texts"] == 24
    states = np.stack([a.states[PLACE][N_PROMPT:].mean(axis=0) for a in solutions()])
    raw = KMeans(2, random_state=42, n_init=10).fit_predict(states)
    assert adjusted_rand_score(raw, [a.row["solution_method"] for a in solutions()]) < 0.2


def test_a_judges_verdicts_are_used_and_a_failure_is_no_verdict(tmp_path: Path) -> None:
    from tracelake.lake.analyses import commit_analysis
    from tracelake.lake.derived import Analysis

    lake = Lake.create(tmp_path / "lake")
    answers = solutions(n_problems=2)
    write_answers(lake, "made", answers)
    pairs = [(a, b) for p in (0, 6) for a in range(p, p + 6) for b in range(a + 1, p + 6)]
    kinds = [a.row["solution_method"] for a in answers]
    said: list[bool | None] = [kinds[a] != kinds[b] for a, b in pairs]
    fails = {(a, b) for a, b in pairs if a >= 6 and kinds[a] != kinds[b]}
    said = [None if pair in fails else one for pair, one in zip(pairs, said, strict=True)]
    analysis = Analysis("made", "judge", {"judge": "x"}, "0" * 16)
    table = {
        "analysis_id": analysis.analysis_id, "prompt_id": [f"p{a // 6}" for a, _ in pairs],
        "sequence_a": [a for a, _ in pairs], "sequence_b": [b for _, b in pairs], "judge": "x", "order": 0,
        "distinct": said, "content": [json.dumps(pair) for pair in pairs],
    }  # fmt: skip
    commit_analysis(lake, analysis, {"judgements": table})
    found = ask(lake, "made", SolutionClusters(method="kmeans"))
    own = {row["prompt_id"]: row for row in rows(lake, "cluster_summaries", found.analysis_id)}
    assert (own["p0"]["distinctness"], own["p0"]["n_verdicts"], own["p0"]["ari_judge"]) == (1.0, 1, 1.0)
    assert own["p1"]["distinctness"] is None and own["p1"]["n_verdicts"] == 0 and own["p1"]["n_pairs"] == 1
    assert own["p1"]["ari_judge"] is None and "no verdict" in own["p1"]["reason"]
    assert own[None]["distinctness"] == 1.0


def test_clusters_that_cannot_be(lake: Lake, tmp_path: Path) -> None:
    for options, error, says in (
        ({"method": "kmean"}, UsageError, "kmeans"),
        ({"k": 0}, UsageError, "--k"),
        ({"layer": "7"}, NotFoundError, "resid_post@7"),
        ({"site": "resid"}, NotFoundError, "resid_post"),
    ):
        with pytest.raises(error, match=says):
            ask(lake, "made", SolutionClusters(**options))
    found = ask(lake, "made", SolutionClusters(method="kmeans", k=7))
    table = [row for row in rows(lake, "cluster_summaries", found.analysis_id) if row["prompt_id"]]
    assert {row["reason"] for row in table} == {"fewer different solutions than k = 7"}
    other = Lake.create(tmp_path / "lake")
    write_answers(other, "made", [Answer(a.prompt, a.states, a.tokens, {"correct": False}) for a in solutions()])
    with pytest.raises(ConfigError, match="graded correct"):
        ask(other, "made", SolutionClusters())
