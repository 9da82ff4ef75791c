"""Geometry of paths: closed forms, and equality with a plain loop over steps."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tracelake.analysis.paths.geometry import half_life, shape_of, steps_of, z_scores
from tracelake.analysis.paths.planes import compiled_functions, plane, planes, reduced, shared_plane
from tracelake.analysis.paths.stored_paths import Paths

ONE = np.array([0])


def test_the_polyline_of_the_definitions() -> None:
    steps = steps_of(np.array([[0.0, 0], [1, 0], [1, 1]]), ONE)
    np.testing.assert_array_equal(steps.velocity, [np.nan, 1, 1])
    np.testing.assert_allclose(steps.curvature_rad, [np.nan, np.nan, np.pi / 2])
    shape = shape_of(np.array([[0.0, 0], [1, 0], [1, 1]]), ONE, steps)
    assert shape.tortuosity[0] == pytest.approx(np.sqrt(2)) and shape.path_length[0] == 2


def test_a_straight_line_does_not_turn() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=64) + np.cumsum(rng.random(50))[:, None] * rng.normal(size=64)
    steps = steps_of(points, ONE)
    assert np.nanmax(steps.curvature_rad) < 1e-6  # arccos would give 1e-8 to 1e-4 of noise here
    assert shape_of(points, ONE, steps).tortuosity[0] == pytest.approx(1)


def test_a_circle_turns_by_the_same_angle_everywhere() -> None:
    angle = 2 * np.pi * np.arange(41) / 40
    plane_of = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 2)))[0]
    points = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1) @ plane_of.T
    steps = steps_of(points, ONE)
    np.testing.assert_allclose(steps.curvature_rad[2:], 2 * np.pi / 40, atol=1e-9)
    np.testing.assert_allclose(steps.velocity[1:], 2 * 3 * np.sin(np.pi / 40))
    assert np.isnan(shape_of(points, ONE, steps).tortuosity[0]), "it ends where it began"
    assert np.isnan(steps.velocity_z).all(), "equal steps have no z-score"


def test_a_random_walk_turns_by_a_right_angle_in_many_dimensions() -> None:
    points = np.cumsum(np.random.default_rng(2).normal(size=(400, 2048)), axis=0)
    turns = steps_of(points, ONE).curvature_rad[2:]
    assert np.mean(turns) == pytest.approx(np.pi / 2, abs=0.01) and turns.std() < 0.03


def test_a_path_that_turns_back() -> None:
    np.testing.assert_allclose(steps_of(np.array([[0.0], [1], [0]]), ONE).curvature_rad[2], np.pi)


def test_a_repeated_text_stands_still() -> None:
    points = np.tile(np.random.default_rng(3).normal(size=8), (5, 1))
    steps = steps_of(points, ONE)
    assert (steps.velocity[1:] == 0).all() and np.isnan(steps.curvature_rad).all() and steps.zero_step[1:].all()
    np.testing.assert_allclose(steps.cos_prev_step[1:], 1)


def test_a_zero_step_takes_both_turns_with_it() -> None:
    steps = steps_of(np.array([[0.0, 0], [1, 0], [1, 0], [1, 1], [0, 1]]), ONE)
    assert np.isnan(steps.curvature_rad).tolist() == [True, True, True, True, False]
    assert np.isnan(steps_of(np.array([[1e6, 0], [1e6 + 1e-4, 0], [1e6, 1]]), ONE).curvature_rad[2])


def _plain(points: np.ndarray, prompt: np.ndarray) -> list[dict[str, float]]:
    """One step after the other."""
    rows = []
    for t, x in enumerate(points):
        row = {"cos_to_prompt": float(x @ prompt / np.linalg.norm(x) / np.linalg.norm(prompt))}
        row |= dict.fromkeys(("cos_prev_step", "velocity", "curvature_rad"), np.nan)
        if t:
            d = x - points[t - 1]
            row["velocity"] = float(np.linalg.norm(d))
            row["cos_prev_step"] = float(x @ points[t - 1] / np.linalg.norm(x) / np.linalg.norm(points[t - 1]))
        if t > 1:
            e = points[t - 1] - points[t - 2]
            row["curvature_rad"] = float(np.arccos(np.clip(d @ e / np.linalg.norm(d) / np.linalg.norm(e), -1, 1)))
        rows.append(row)
    return rows


def test_all_paths_at_once_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(4)
    lengths = [1, 2, 3, 40, 7]
    paths = [np.cumsum(rng.normal(size=(n, 16)), axis=0) + 5 for n in lengths]
    prompts = rng.normal(size=(len(lengths), 16))
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    points = np.concatenate(paths)
    steps = steps_of(points, starts, prompts)
    shape = shape_of(points, starts, steps)
    plain = [row for path, prompt in zip(paths, prompts, strict=True) for row in _plain(path, prompt)]
    for name in ("cos_to_prompt", "cos_prev_step", "velocity", "curvature_rad"):
        np.testing.assert_allclose(getattr(steps, name), [row[name] for row in plain], atol=1e-9, err_msg=name)
    for i, path in enumerate(paths):
        speeds = np.linalg.norm(np.diff(path, axis=0), axis=1)
        rows = slice(starts[i], starts[i] + len(path))
        np.testing.assert_allclose(steps.path_length[rows], np.concatenate([[0], np.cumsum(speeds)]), atol=1e-9)
        if len(path) > 2:
            z = (speeds - speeds.mean()) / speeds.std(ddof=1)
            np.testing.assert_allclose(steps.velocity_z[rows][1:], z)
            assert shape.max_velocity[i] == pytest.approx(speeds.max())
            assert shape.mean_curvature_rad[i] == pytest.approx(np.nanmean(steps.curvature_rad[rows]))
            assert shape.tortuosity[i] == pytest.approx(speeds.sum() / np.linalg.norm(path[-1] - path[0]))
    assert np.isnan(shape.mean_velocity[0]) and np.isnan(shape.path_length[0])
    assert np.isnan(shape.mean_curvature_rad[1]) and shape.mean_velocity[1] > 0


def test_half_life_is_the_first_step_at_most_095_of_the_first() -> None:
    cosine = np.array([1.0, 0.96, 0.95, 0.2, 0.9, 0.9, -0.5, -0.9, np.nan, 0.8, 0.7])
    starts = np.array([0, 4, 6, 8])
    step = np.array([0, 1, 2, 3, 0, 1, 0, 1, 0, 1, 2])
    np.testing.assert_array_equal(half_life(cosine, step, starts), [2, np.nan, np.nan, 2])


def test_z_scores_of_a_constant_are_missing() -> None:
    assert np.isnan(z_scores(np.array([2.0, 2, 2]), ONE)).all()


def test_chunks_hold_whole_paths() -> None:
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 9, 30)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    n = int(lengths.sum())
    ids = np.repeat(np.arange(30), lengths)
    paths = Paths(ids, np.arange(n), np.arange(n), None, rng.normal(size=(n, 4)), starts, np.zeros((30, 4)))
    pieces = list(paths.chunks(20))
    assert len(pieces) > 3 and np.array_equal(np.concatenate([p.vectors for p in pieces]), paths.vectors)
    assert [int(i) for p in pieces for i in p.sequence_id[p.starts]] == list(range(30))


def test_planes_of_short_paths_are_missing_and_others_do_not_depend_on_them() -> None:
    rng = np.random.default_rng(6)
    long = np.cumsum(rng.normal(size=(20, 12)), axis=0)
    points = np.concatenate([long[:1], long[:3], long, np.ones((6, 12))])
    starts = np.array([0, 1, 4, 24])
    found, missing = planes(points, starts)
    assert missing == [0, 1, 3] and np.isnan(found[:4]).all() and np.isfinite(found[4:24]).all()
    np.testing.assert_array_equal(found[4:24], plane(long))
    assert shared_plane(points).shape == (30, 2)
    assert reduced(long).shape == (20, 12) and reduced(rng.normal(size=(50, 40))).shape == (50, 32)


def test_the_picture_has_the_settings_of_the_guide() -> None:
    """Written out once more, from the definitions: PCA, jitter, UMAP, all with seed 42."""
    import umap
    from sklearn.decomposition import PCA

    points = np.cumsum(np.random.default_rng(7).normal(size=(12, 40)), axis=0)
    components = PCA(n_components=11, random_state=42).fit_transform(points)
    jittered = components + 1e-6 * np.random.default_rng(42).standard_normal(components.shape)
    expected = umap.UMAP(n_components=2, n_neighbors=10, metric="euclidean", random_state=42, n_jobs=1)
    np.testing.assert_array_equal(plane(points), expected.fit_transform(jittered).astype(np.float64))


def test_what_a_picture_compiles_is_kept_for_the_next_process() -> None:
    import umap

    plane(np.cumsum(np.random.default_rng(8).normal(size=(12, 40)), axis=0))
    functions = compiled_functions(umap)
    assert len(functions) == 4
    for function in functions:
        assert function.stats.cache_hits or function.stats.cache_misses, function.py_func.__name__


def test_a_plane_leaves_torch_the_threads_that_were_asked_for() -> None:
    """Numba loads OpenMP before torch does, in a process of its own: here torch is there already."""
    code = (
        "import numpy as np\n"
        "from tracelake.analysis.paths.planes import embedded\n"
        "embedded(np.random.default_rng(0).normal(size=(20, 3)), 5)\n"
        "import torch\n"
        "print(torch.get_num_threads())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "1"
