"""The tracker and its 26 numbers as plain Python, one unit at a time: a double loop over tracks and features."""

import math
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

Feature = tuple[int, float, float]
"""Id, activation, place from 0 to 1."""


def plain_cost(track: dict[str, Any], feature: Feature, row: np.ndarray, weights: tuple[float, float, float]) -> float:
    """What it costs a feature with this decoder row to go on with a track."""
    _, b, place = feature
    a = track["activations"][-1]
    u, v = track["row"], row
    norms = math.sqrt(float(u @ u)) * math.sqrt(float(v @ v))
    cosine = float(u @ v) / norms if norms > 0 else 0.0
    change = abs(a - b) / (a + b) if a > 1e-6 else 1.0 if b > 0.1 else 0.0
    return weights[0] * (1 - cosine) + weights[1] * change + weights[2] * abs(track["place"] - place)


def plain_tracks(layers: list[list[Feature]], decoders: list[np.ndarray], rules: dict[str, Any]) -> list[dict]:
    """Tracks in the order of birth: layers, features, activations and costs of their points; `dead` or not."""
    tracks: list[dict[str, Any]] = []
    for layer, offered in enumerate(layers):
        features = sorted(offered)
        if rules["method"] == "top-1" and features:
            features = [min(features, key=lambda one: (-one[1], one[0]))]
        living = [track for track in tracks if not track["dead"]]
        pairs = plain_pairs(living, features, decoders[layer], rules)
        pairs = {f: t for f, t in pairs.items() if features[f][1] >= rules["death"]}
        costs = {f: plain_cost(living[t], features[f], decoders[layer][features[f][0]], rules["weights"])
                 for f, t in pairs.items()}  # fmt: skip
        for f, t in pairs.items():
            extend(living[t], layer, features[f], decoders[layer], costs[f])
        for track in living:
            track["dead"] = layer - track["layers"][-1] > rules["gap"]
        for f, feature in enumerate(features):
            if f not in pairs and feature[1] > rules["birth"]:
                born = {"layers": [], "features": [], "activations": [], "costs": [], "dead": False}
                tracks.append(extend(born, layer, feature, decoders[layer], None))
    return tracks


def extend(track: dict[str, Any], layer: int, feature: Feature, decoder: np.ndarray, cost: float | None) -> dict:
    """The track with one more point."""
    for name, value in (("layers", layer), ("features", feature[0]), ("activations", feature[1]), ("costs", cost)):
        track[name].append(value)
    track["row"], track["place"] = decoder[feature[0]], feature[2]
    return track


def plain_pairs(living: list[dict], features: list[Feature], decoder: np.ndarray, rules: dict) -> dict[int, int]:
    """Track by feature, both as places in their lists."""
    if rules["method"] == "none" or not living or not features:
        return {}
    if rules["method"] == "feature-id":
        found: dict[int, int] = {}
        for t, track in enumerate(living):
            for f, feature in enumerate(features):
                if track["features"][-1] == feature[0] and f not in found:
                    found[f] = t
        return found
    cost = [[plain_cost(track, one, decoder[one[0]], rules["weights"]) for one in features] for track in living]
    if rules["method"] == "greedy":
        found = {}
        for t in sorted(range(len(living)), key=lambda t: (-living[t]["activations"][-1], t)):
            free = [f for f in range(len(features)) if f not in found]
            if free and cost[t][best := min(free, key=lambda f: (cost[t][f], f))] < rules["match"]:
                found[best] = t
        return found
    rows, columns = linear_sum_assignment(np.array(cost))
    return {int(f): int(t) for t, f in zip(rows, columns, strict=True) if cost[t][f] < rules["match"]}


def plain_metrics(tracks: list[dict], n_layers: int) -> dict[str, float]:
    """The 26 numbers of one unit that has a track."""
    entropy, competition, dominance, density = [], [], [], []
    for layer in range(n_layers):
        there = [t for t in tracks if t["layers"][0] <= layer and (not t["dead"] or layer <= t["layers"][-1])]
        now = [t["activations"][t["layers"].index(layer)] if layer in t["layers"] else 0.0 for t in there]
        total = sum(now)
        entropy.append(-sum(a / total * math.log2(a / total) for a in now if a > 0) if total > 0 else 0.0)
        competition.append(sum(a > 0.5 for a in now))
        dominance.append(max(now) / total if total > 0 else 0.0)
        density.append(len(there))
    births, deaths = len(tracks), sum(t["dead"] for t in tracks)
    steady = [1 / (1 + float(np.var(t["activations"]))) for t in tracks if len(t["layers"]) >= 2]
    numbers = {
        "entropy_mean": np.mean(entropy), "entropy_max": max(entropy), "entropy_std": np.std(entropy),
        "entropy_final": entropy[-1], "total_births": births, "total_deaths": deaths,
        "birth_rate": births / n_layers, "death_rate": deaths / n_layers,
        "churn_ratio": (births + deaths) / (2 * n_layers), "survival_rate": (births - deaths) / births,
        "competition_mean": np.mean(competition), "competition_max": max(competition),
        "competition_std": np.std(competition), "competition_final": competition[-1],
        "high_competition_ratio": np.mean([c > 2 for c in competition]),
        "stability_mean": np.mean(steady) if steady else 0.0, "stability_min": min(steady, default=0.0),
        "low_stability_ratio": np.mean([s < 0.5 for s in steady]) if steady else 0.0,
        "dominance_mean": np.mean(dominance), "dominance_min": min(dominance), "dominance_final": dominance[-1],
        "low_dominance_ratio": np.mean([d < 0.5 for d in dominance]),
        "density_mean": np.mean(density), "density_max": max(density), "density_std": np.std(density),
        "max_concurrent_tracks": max(density),
    }  # fmt: skip
    return {name: float(value) for name, value in numbers.items()}
