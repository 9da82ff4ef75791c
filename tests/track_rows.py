"""Rows of the synthetic lake that tracks and detection would have written: two autoencoders, layers 3 and 4."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
from sae_rows import SAE

RUN, NEXT_SAE = "sampled-01", "sae-2"
SIGNALS = ("majority", "telemetry", "tracks", "telemetry+tracks", "consistency")


def track_rows(rng: np.random.Generator, sequences: list[dict]) -> dict[str, list[dict]]:
    """Tracks of five tokens of eight answers, links of four features, one detection."""
    own = [one for one in sequences if one["run_id"] == RUN][:8]
    analyses = [
        {"run_id": RUN, "analysis_id": f"{name}-1", "name": name, "parameters": "{}", "snapshot": "0" * 16,
         "n_sequences": 8, "created_at": datetime(2026, 11, 21, 15, number, tzinfo=UTC)}
        for number, name in enumerate(("links", "tracks", "detect"))
    ]  # fmt: skip
    sae = {"run_id": RUN, "sae_id": NEXT_SAE, "arch": "topk", "layer": 4, "site": "resid_post", "d_in": 8, "d_out": 8}
    return {"analyses": analyses, "saes": [sae | {"d_sae": 4, "k": 2}], "feature_links": _links()} | _tracks(
        rng, own
    ) | _detection(rng)  # fmt: skip


def _links() -> list[dict]:
    key = {"run_id": RUN, "analysis_id": "links-1", "sae_id": SAE, "next_sae_id": NEXT_SAE}
    return [
        key | {"feature": feature, "next_feature": (feature + place) % 4, "cosine": 0.9 - 0.2 * place, "place": place}
        for feature in range(4)
        for place in range(3)
    ]


def _tracks(rng: np.random.Generator, own: list[dict]) -> dict[str, list[dict]]:
    """Track 0 goes on, 1 dies in layer 3, 2 is born in layer 4."""
    tracks: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    for one in own:
        for step in range(5):
            unit = {"run_id": RUN, "analysis_id": "tracks-1", "sequence_id": one["sequence_id"]}
            unit |= {"position": one["n_prompt_tokens"] + step}
            for track, layers in enumerate(((3, 4), (3,), (4,))):
                activations = [float(a) for a in rng.gamma(2, 0.5, len(layers))]
                about = {"birth_layer": layers[0], "death_layer": 3 if track == 1 else None, "n_layers": len(layers)}
                about |= {"max": max(activations), "mean": sum(activations) / len(layers), "final": activations[-1]}
                tracks.append(unit | {"track": track} | about)
                points += [
                    unit | {"track": track, "layer": layer, "feature": track, "activation": activation}
                    | {"cost": None if layer == layers[0] else 0.2}
                    for layer, activation in zip(layers, activations, strict=True)
                ]  # fmt: skip
    return {"tracks": tracks, "track_points": points}


def _detection(rng: np.random.Generator) -> dict[str, list[dict]]:
    key = {"run_id": RUN, "analysis_id": "detect-1"}
    rows: dict[str, list[dict]] = {
        "detections": [], "detection_curves": [], "risk_coverage": [], "detection_importances": [],
    }  # fmt: skip
    for number, signal in enumerate(SIGNALS):
        about = key | {"signal": signal, "model": "majority" if signal == "majority" else "logistic"}
        for score in ("auroc", "within_prompt_auroc"):
            value = 0.5 + 0.08 * number
            found = {"label": "correct", "score": score, "n": 128, "n_prompts": 32, "value": value}
            found |= {"ci_low": value - 0.05, "ci_high": value + 0.05}
            gained = {"gain": 0.01, "gain_low": -0.02, "gain_high": 0.04, "p_holm": 0.6, "sentence": "adds nothing"}
            rows["detections"] += [
                about | found | (gained if signal == "tracks" else {}),
                about | found | {"control": "labels shuffled", "value": 0.5},
            ]
        rows["risk_coverage"] += [
            about | {"place": c, "coverage": c / 10, "risk": c / 40, "threshold": 1 - c / 10} for c in range(1, 11)
        ]
        for curve in ("roc", "calibration"):
            rows["detection_curves"] += [
                about
                | {
                    "curve": curve,
                    "place": x,
                    "x": x / 4,
                    "y": min(1, x / 3),
                    "low": x / 5,
                    "high": min(1, x / 2.5),
                    "n": 128,
                }
                for x in range(5)
            ]
        rows["detection_importances"] += [
            about | {"column": f"{name}:mean", "value": float(rng.normal(0.01, 0.01)), "ci_low": -0.01, "ci_high": 0.03}
            for name in ("entropy_mean", "churn_ratio", "stability_min")
        ]
    return rows
