"""Tracks and their 26 numbers: two worked examples, and a plain tracker on random units."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from plain_tracker import Feature, plain_metrics, plain_tracks

from tracelake.analysis.tracks.association import LayerFeatures, Points, Rules, follow
from tracelake.analysis.tracks.dictionaries import Dictionaries
from tracelake.analysis.tracks.metrics import ASSOCIATED, NAMES, NO_TRACK, metrics
from tracelake.analysis.tracks.tracks import points_frame, tracks_frame

H = 0.5**0.5
EXAMPLE: list[list[Feature]] = [[(0, 3, 0), (1, 1, 0)], [(5, 2, 0), (6, 0.6, 0), (7, 0.4, 0)], [(2, 2, 0), (3, 4, 0)]]
SOURCE: dict[str, Any] = {"weights": (0.6, 0.2, 0.0), "match": 0.5, "birth": 0.5, "death": 0.0, "gap": 0}


def example_decoders() -> list[np.ndarray]:
    rows = [{0: (1, 0), 1: (0, 1)}, {5: (1, 0), 6: (H, H), 7: (0, -1)}, {2: (1, 0), 3: (-1, 0)}]
    decoders = [np.zeros((8, 2)) for _ in rows]
    for decoder, given in zip(decoders, rows, strict=True):
        for feature, row in given.items():
            decoder[feature] = row
    return decoders


def padded(units: list[list[list[Feature]]]) -> list[LayerFeatures]:
    """Units with their layers as one padded block per layer."""
    layers = []
    for layer in range(len(units[0])):
        width = max(len(unit[layer]) for unit in units)
        block = np.full((3, len(units), width), -1.0)
        for place, unit in enumerate(units):
            for slot, feature in enumerate(sorted(unit[layer])):
                block[:, place, slot] = feature
        layers.append(LayerFeatures(block[0].astype(np.int64), block[1], block[2]))
    return layers


def numbers(points: Points, n_units: int, n_layers: int, gap: int = 0) -> list[dict[str, float]]:
    frame = points_frame(points, range(n_layers))
    return metrics(frame, tracks_frame(frame, n_layers, gap), n_units, n_layers).to_dicts()


def test_worked_example() -> None:
    points = follow(padded([EXAMPLE]), Dictionaries(example_decoders()), Rules(**SOURCE))
    frame = points_frame(points, range(3))
    tracks = tracks_frame(frame, 3, 0)
    by_track = {t: frame.filter(track=t)["activation"].to_list() for t in range(3)}
    assert by_track == {0: [3, 2, 2], 1: [1, 0.6], 2: [4]}
    assert tracks["birth"].to_list() == [0, 0, 2] and tracks["death"].to_list() == [None, 1, None]
    [row] = numbers(points, 1, 3)
    expected = {
        "total_births": 3, "total_deaths": 1, "churn_ratio": 0.6667, "survival_rate": 0.6667, "entropy_mean": 0.8363,
        "entropy_std": 0.0594, "entropy_final": 0.9183, "dominance_mean": 0.7286, "dominance_min": 0.6667,
        "stability_mean": 0.8899, "stability_min": 0.8182, "competition_mean": 2, "density_mean": 2,
    }  # fmt: skip
    assert {name: round(row[name], 4) for name in expected} == expected


def test_without_association() -> None:
    decoders = Dictionaries(example_decoders())
    with_association, none = (
        numbers(follow(padded([EXAMPLE]), decoders, replace(Rules(**SOURCE), method=method)), 1, 3)[0]
        for method in ("hungarian", "none")
    )
    expected = {"total_births": 6, "total_deaths": 4, "churn_ratio": 1.6667, "survival_rate": 0.3333,
                "stability_mean": 0, "stability_min": 0, "low_stability_ratio": 0}  # fmt: skip
    assert {name: round(none[name], 4) for name in expected} == expected
    unchanged = [name for name in NAMES if name not in ASSOCIATED]
    assert len(NAMES) == 26 and len(unchanged) == 17
    assert [none[name] for name in unchanged] == [with_association[name] for name in unchanged]


def test_entropy_and_dominance_of_two_tracks() -> None:
    [row] = numbers(follow(padded([[[(0, 3, 0), (1, 1, 0)]]]), Dictionaries([np.eye(2)]), Rules()), 1, 1)
    assert round(row["entropy_mean"], 4) == 0.8113 and row["dominance_mean"] == 0.75


def random_units(rng: np.random.Generator, n_units: int, n_layers: int, d_sae: int, silent: bool) -> list:
    """Units with 0 to 7 features per layer, some of them (if `silent`) of activation 0."""
    units = []
    for _ in range(n_units):
        unit = []
        for _ in range(n_layers):
            ids = rng.choice(d_sae, rng.integers(0, 8), replace=False)
            low = 0.0 if silent else 0.05
            unit.append([(int(i), float(max(low, rng.normal(1, 0.8))), float(rng.random())) for i in ids])
        units.append(unit)
    return units


@pytest.mark.parametrize("method", ["hungarian", "greedy", "feature-id", "none", "top-1"])
@pytest.mark.parametrize("profile", ["default", "source"])
@pytest.mark.parametrize(("gap", "death"), [(0, 0.0), (1, 0.3)])
def test_equals_plain_tracker(method: str, profile: str, gap: int, death: float) -> None:
    rng = np.random.default_rng(5)
    n_units, n_layers, d_sae = 100, 5, 12
    # Rows that lean on one common direction: then many pairs cost less than 0.5, and many do not.
    decoders = [rng.normal(size=(d_sae, 6)) + 1.2 for _ in range(n_layers)]
    units = random_units(rng, n_units, n_layers, d_sae, silent=profile == "source")
    weights = (0.6, 0.2, 0.0 if profile == "source" else 0.2)
    rules: dict[str, Any] = {
        "method": method,
        "weights": weights,
        "match": 0.5,
        "birth": 0.5,
        "death": death,
        "gap": gap,
    }
    points = follow(padded(units), Dictionaries(decoders), Rules(**rules))
    rows = numbers(points, n_units, n_layers, gap)
    n_matched = 0
    for number, unit in enumerate(units):
        plain = plain_tracks(unit, decoders, rules)
        expected = sorted(
            (layer, track, feature, activation, -1.0 if cost is None else cost)
            for track, one in enumerate(plain)
            for layer, feature, activation, cost in zip(
                one["layers"], one["features"], one["activations"], one["costs"], strict=True
            )
        )
        mine = points.unit == number
        columns = [getattr(points, name)[mine] for name in ("layer", "track", "feature", "activation")]
        assert [tuple(row[:4]) for row in expected] == list(zip(*columns, strict=True))
        np.testing.assert_allclose(np.nan_to_num(points.cost[mine], nan=-1.0), [row[4] for row in expected], atol=1e-12)
        n_matched += int(np.isfinite(points.cost[mine]).sum())
        if plain:
            known = plain_metrics(plain, n_layers)
            for name in NAMES:
                assert rows[number][name] == pytest.approx(known[name], abs=1e-9), name
        else:
            assert rows[number]["reason"] == NO_TRACK and all(rows[number][name] is None for name in NAMES)
    assert (n_matched > 0) == (method != "none")


def test_assignment_has_the_least_total_cost() -> None:
    rng = np.random.default_rng(2)
    decoders = [rng.normal(size=(8, 5)) + 1 for _ in range(2)]
    units = [[[(i, 1.0 + rng.random(), 0.0) for i in range(4)] for _ in range(2)] for _ in range(30)]
    rules = Rules(match=9.0)
    points = follow(padded(units), Dictionaries(decoders), rules)
    unit_rows = [d / np.linalg.norm(d, axis=1, keepdims=True) for d in decoders]
    for number, unit in enumerate(units):
        a, b = (np.array([f[1] for f in layer]) for layer in unit)
        change = np.abs(a[:, None] - b) / (a[:, None] + b)
        cost = 0.6 * (1 - unit_rows[0][:4] @ unit_rows[1][:4].T) + 0.2 * change
        least = min(sum(cost[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(4)))
        assert np.nansum(points.cost[points.unit == number]) == pytest.approx(least)


def test_blocks_and_wide_dictionaries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracelake.analysis.tracks import association, dictionaries

    rng = np.random.default_rng(0)
    decoders = [rng.normal(size=(12, 6)) + 1.2 for _ in range(4)]
    layers = padded(random_units(rng, 40, 4, 12, silent=False))
    whole = follow(layers, Dictionaries(decoders), Rules(gap=1))
    monkeypatch.setattr(association, "CELLS", 200)
    monkeypatch.setattr(dictionaries, "TABLE_CELLS", 0)
    pieces = follow(layers, Dictionaries(decoders), Rules(gap=1))
    for name in ("unit", "track", "layer", "feature"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))
    np.testing.assert_allclose(whole.cost, pieces.cost, atol=1e-12)


def test_permuting_keeps_the_rows_of_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    plain = Dictionaries([rng.normal(size=(20, 4)) for _ in range(3)])
    mixed, again = plain.permuted(7), plain.permuted(7)
    np.testing.assert_allclose(mixed.rows[0], plain.rows[0])
    for layer in (1, 2):
        assert not np.allclose(mixed.rows[layer], plain.rows[layer])
        np.testing.assert_array_equal(mixed.rows[layer], again.rows[layer])
        np.testing.assert_allclose(np.sort(mixed.rows[layer], axis=0), np.sort(plain.rows[layer], axis=0))
