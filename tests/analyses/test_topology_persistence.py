"""Persistent homology: closed forms, Ripser called directly, a minimum spanning tree, and a null that is honest."""

import numpy as np
import pytest
from scipy import stats
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

from tracelake.analysis.paths.persistence import chance, diagram, numbers, permuted_paths
from tracelake.analysis.paths.planes import reduced


def circle(n: int, radius: float = 1.0) -> np.ndarray:
    angle = 2 * np.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def walk(seed: int, n: int = 40, dim: int = 3) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(size=(n, dim)), axis=0)


def test_a_circle_has_one_loop() -> None:
    """Of a regular n-gon the loop is born with the side and dies with the longest edge of a triangle around it."""
    n = 36
    found = diagram(circle(n), 300).pairs(1)
    assert len(found) == 1
    np.testing.assert_allclose(found[0], [2 * np.sin(np.pi / n), np.sqrt(3)], atol=1e-5)


def test_a_line_has_no_loop_and_its_gaps_as_components() -> None:
    found = diagram(np.cumsum([0.0, 1, 2, 4])[:, None], 300)
    assert len(found.loops) == 0
    np.testing.assert_array_equal(found.pairs(0), [[0, np.inf], [0, 4], [0, 2], [0, 1]])
    assert numbers(found.pairs(0), 0).entropy_bits == pytest.approx(-sum(p * np.log2(p) for p in (1 / 7, 2 / 7, 4 / 7)))


def test_it_is_ripser() -> None:
    from ripser import ripser

    points = walk(0)
    direct = ripser(points, maxdim=1)["dgms"]
    found = diagram(points, 300)
    for dimension in (0, 1):
        pairs, expected = found.pairs(dimension), direct[dimension]
        np.testing.assert_allclose(np.sort(pairs, axis=0), np.sort(expected, axis=0), rtol=1e-6)
    lives = found.pairs(1)[:, 1] - found.pairs(1)[:, 0]
    assert (np.diff(lives) <= 0).all()
    with_twin = diagram(np.concatenate([points, points[:1]]), 300)
    assert len(with_twin.pairs(0)) == len(found.pairs(0)), "a point that stands twice is no component"


def test_components_die_with_the_edges_of_the_minimum_spanning_tree() -> None:
    points = walk(1, n=30, dim=5)
    edges = np.sort(minimum_spanning_tree(squareform(pdist(points))).data)
    deaths = diagram(points, 300).pairs(0)[:, 1]
    np.testing.assert_allclose(np.sort(deaths[np.isfinite(deaths)]), edges, rtol=1e-6)
    assert np.isinf(deaths).sum() == 1


def test_order_does_not_matter_to_persistence() -> None:
    """Why the null cannot be a shuffle of the points."""
    points = walk(2)
    shuffled = np.random.default_rng(0).permutation(points)
    np.testing.assert_allclose(diagram(points, 300).pairs(1), diagram(shuffled, 300).pairs(1), atol=1e-6)


def test_paths_of_the_null_keep_ends_and_steps() -> None:
    points = walk(3)
    lengths = np.sort(np.linalg.norm(np.diff(points, axis=0), axis=1))
    for path in permuted_paths(points, 5, 0):
        np.testing.assert_allclose(path[[0, -1]], points[[0, -1]])
        np.testing.assert_allclose(np.sort(np.linalg.norm(np.diff(path, axis=0), axis=1)), lengths)
        assert not np.allclose(path, points)


def test_a_circle_is_more_of_a_loop_than_its_steps_in_random_order() -> None:
    points = np.concatenate([circle(30), circle(30)[:1]])
    observed = numbers(diagram(points, 300).loops, 0.02)
    found = chance(points, observed, n_paths=39, min_persistence=0.02, max_points=300, seed=1)
    assert found.p_max_persistence == 1 / 40 and found.mean_max_persistence < observed.max_persistence / 2


def test_random_walks_are_not_called_special() -> None:
    """Under the hypothesis the p-values are uniform: 60 walks, 19 null paths each."""
    values = []
    for seed in range(60):
        points = walk(100 + seed, n=25)
        observed = numbers(diagram(points, 300).loops, 0.5)
        values.append(chance(points, observed, n_paths=19, min_persistence=0.5, max_points=300, seed=seed))
    longest = [v.p_max_persistence for v in values]
    assert stats.kstest(np.array(longest) - 0.025, "uniform").pvalue > 0.01
    assert np.mean([v.p_loops <= 0.05 for v in values]) <= 0.15


def test_landmarks_bound_the_error() -> None:
    points = circle(400)
    whole, few = diagram(points, 400), diagram(points, 60)
    assert (few.n_points, few.n_landmarks) == (400, 60) and 0 < few.cover_radius < 0.2
    assert (whole.n_landmarks, whole.cover_radius) == (400, 0)
    assert np.abs(few.pairs(1)[0] - whole.pairs(1)[0]).max() <= 2 * few.cover_radius


@pytest.mark.parametrize("n", [1, 2, 3])
def test_short_paths(n: int) -> None:
    found = diagram(walk(4, n=n), 300)
    assert len(found.pairs(0)) == n and len(found.pairs(1)) == 0
    empty = numbers(found.pairs(1), 0.02)
    assert empty.n_pairs == 0 and np.isnan(empty.max_persistence) and np.isnan(empty.entropy_bits)


def test_a_path_that_stands_still_has_no_components_in_either_space() -> None:
    still = np.full((9, 64), 0.1, np.float32)
    assert np.array_equal(reduced(still), still)
    for points in (still, reduced(still)):
        assert numbers(diagram(points, 100).pairs(0), 0.0).n_pairs == 0
