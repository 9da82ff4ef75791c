"""Rows of the synthetic lake that analyses of directions and of sampling would have written."""

import json
from datetime import UTC, datetime

import numpy as np

RUN, OTHER, LAYERS, DIM = "sampled-01", "greedy-01", 6, 4
NAMES = ("directions", "variance", "oracle", "sensitivity", "clusters", "pass-rates", "steering")


def sampling_rows(rng: np.random.Generator, sequences: list[dict]) -> dict[str, list[dict]]:
    """One analysis of each name over the first forty sequences; `variance` of both runs."""
    own = [one for one in sequences if one["run_id"] == RUN][:40]
    return {
        "analyses": [_analysis(RUN, name, n) for n, name in enumerate(NAMES)] + [_analysis(OTHER, "variance", 1)],
        **_directions(rng, own),
        "sampling_variance": [row for run in (RUN, OTHER) for row in _variance(rng, run, own)],
        "oracle_distances": _oracle(rng, own),
        "path_sensitivity": _sensitivity(rng, own[:3]),
        **_clusters(rng, own),
        "pass_rates": [
            {"run_id": RUN, "analysis_id": "pass-rates-1", "condition": RUN, "k": k, "n_samples": 40, "n_correct": 20}
            | {"n_prompts": 10, "pass_at_k": 1 - 0.5**k, "ci_low": 0.3, "ci_high": 0.97}
            for k in (1, 2, 4)
        ],
        "steering_effects": _steering(rng),
    }


def _steering(rng: np.random.Generator) -> list[dict]:
    key = {"run_id": RUN, "analysis_id": "steering-1", "site": "resid_post", "layer": 2, "n_prompts": 10}
    added = {"singular-resid_post-2-0a": None, "random-resid_post-2-0b": "singular-resid_post-2-0a"}
    steered = [
        key
        | {"condition": f"{direction}-{strength}", "direction": direction, "control_of": control, "measure": measure}
        | {"method": direction.partition("-")[0], "strength": strength, "value": 0.5, "change": float(rng.normal())}
        | {"change_ci_low": -2.0, "change_ci_high": 2.0}
        for direction, control in added.items()
        for strength in (-1.0, 1.0, 2.0)
        for measure in ("accuracy", "share:split")
    ]
    return [key | {"condition": RUN, "strength": 0.0, "measure": "accuracy", "value": 0.5}, *steered]


def _analysis(run: str, name: str, number: int) -> dict:
    options = {"site": "resid_post", "stride": 1, "window": None, "checkpoints": None, "short": "exclude"}
    return {
        "run_id": run, "analysis_id": f"{name}-1", "name": name, "parameters": json.dumps(options), "n_sequences": 40,
        "snapshot": "0" * 16, "created_at": datetime(2026, 11, 20, 15, number, tzinfo=UTC),
    }  # fmt: skip


def _directions(rng: np.random.Generator, own: list[dict]) -> dict[str, list[dict]]:
    key = {"run_id": RUN, "analysis_id": "directions-1"}
    place = {"method": "mean-difference", "site": "resid_post", "at": "prompt", "unit": False}
    directions = [
        key | place
        | {"direction_id": f"mean-difference-resid_post-{layer}-00000000", "layer": layer, "label": "correct"}
        | {"norm": 2.0, "n_right": 20, "n_wrong": 20, "threshold": 0.1, "dtype": "float32", "dim": DIM}
        | {"vector": rng.normal(size=DIM).tolist()}
        for layer in range(LAYERS)
    ]  # fmt: skip
    known = {"fold": "all", "n": 40, "n_prompts": 10, "ci_low": 0.4, "ci_high": 0.9, "accuracy": 0.6}
    scores = [
        key | place | known | {"kind": kind, "layer": layer, "auroc": 0.7 if kind == "direction" else 0.5}
        for layer in range(LAYERS)
        for kind in ("direction", "control")
    ]
    about = {"kind": "baseline", "baseline_group": "before", "method": "level", "auroc": 0.65}
    projections = [
        key
        | {"sequence_id": one["sequence_id"], "direction_id": row["direction_id"], "layer": row["layer"]}
        | {"position": position, "projection": float(rng.normal()), "held_out": float(rng.normal())}
        for one in own
        for row in directions[:2]
        for position in range(one["n_prompt_tokens"] - 1, one["n_prompt_tokens"] + one["n_generated_tokens"])
    ]
    return {
        "directions": directions, "direction_scores": [*scores, key | known | about],
        "direction_projections": projections,
    }  # fmt: skip


def _variance(rng: np.random.Generator, run: str, own: list[dict]) -> list[dict]:
    prompts = [None, *sorted({one["prompt_id"] for one in own})]
    key = {"run_id": run, "analysis_id": "variance-1", "site": "resid_post", "stride": 1}
    counts = {"n_samples": 4, "n_reached": 4, "n_pooled": 4, "n_prompts": 10}
    return [
        key | counts
        | {"prompt_id": prompt, "layer": layer, "temperature": 1.0, "tr_cov": float(rng.gamma(9)), "ci_low": 3.0}
        | {"ci_high": 20.0, "relative_variance": 0.1 * layer, "mean_pairwise_cosine": 0.9, "tr_cov_between": 2.0}
        for prompt in prompts
        for layer in range(LAYERS)
    ]  # fmt: skip


def _oracle(rng: np.random.Generator, own: list[dict]) -> list[dict]:
    key = {"run_id": RUN, "analysis_id": "oracle-1", "answer_run_id": RUN, "oracle_run_id": OTHER, "site": "resid_post"}
    return [
        key
        | {"sequence_id": one["sequence_id"], "prompt_id": one["prompt_id"], "oracle_sequence_id": 0, "scope": scope}
        | {"condition": condition, "share": 0.3 * (condition == "forced"), "n_prefix": 9, "layer": layer, "cosine": 0.9}
        | {"distance": float(rng.gamma(4)), "relative_distance": float(rng.gamma(2)), "n_tokens": 20}
        | ({"improvement": float(rng.normal())} if condition == "forced" else {})
        for one in own
        for layer in range(LAYERS)
        for scope in ("whole", "rest")
        for condition in (("forced",) if one["sequence_id"] % 2 else ("free",))
    ]


def _sensitivity(rng: np.random.Generator, own: list[dict]) -> list[dict]:
    key = {"run_id": RUN, "analysis_id": "sensitivity-1", "branch_run_id": OTHER, "site": "resid_post", "lookahead": 8}
    return [
        key
        | {"sequence_id": one["sequence_id"], "step": step, "position": one["n_prompt_tokens"] + step, "layer": layer}
        | {"branch_sequence_id": step, "token_id": 1, "alternative_id": 2, "alternative_rank": 1, "n_equal_tokens": 3}
        | {"margin": float(rng.gamma(2)), "divergence": float(rng.gamma(5)), "complete": step < 30, "n_branch": 7}
        | {"answer_changed": (True, False, None)[step % 3], "baseline_answer": "12", "branch_answer": "13"}
        for one in own
        for layer in range(LAYERS)
        for step in range(0, 36, 4)
    ]


def _clusters(rng: np.random.Generator, own: list[dict]) -> dict[str, list[dict]]:
    key = {"run_id": RUN, "analysis_id": "clusters-1", "method": "kmeans", "site": "resid_post", "layer": 5}
    key |= {"scope": "prompt"}
    solved = [
        key
        | {"sequence_id": one["sequence_id"], "prompt_id": one["prompt_id"], "k": 2, "cluster": one["sequence_id"] % 2}
        | {"is_representative": one["sequence_id"] % 4 < 2, "centroid_distance": 1.0}
        | {"pc_x": float(rng.normal()), "pc_y": float(rng.normal())}
        for one in own
    ]
    summary = key | {"ari_method": 0.8, "ci_low": 0.6, "ci_high": 0.95, "n_prompts": 10, "n_distinct_texts": 40}
    return {"solution_clusters": solved, "cluster_summaries": [summary]}
