"""Rows of the synthetic lake that running its model again would have written: lens, attribution, effects of neurons."""

import json
from datetime import UTC, datetime

import numpy as np

RUN, LAYERS, HEADS, NEURONS = "sampled-01", 6, 4, 12
NAMES = (
    "lens", "attribution", "second-order", "neuron-effects", "neurons", "layer-ablations", "neuron-paths", "neuron-pca",
    "neuron-words", "neuron-ablation",
)  # fmt: skip
PARAMETERS = {
    "second-order": {"direction": "mean-difference-final_norm-5-1", "at": "prompt", "scaling": "plain"},
    "neuron-paths": {"scores": "second-order-1"},
}


def readout_rows(rng: np.random.Generator, sequences: list[dict]) -> dict[str, list[dict]]:
    """One analysis of each name over the first four sequences."""
    rows: dict[str, list[dict]] = {"analyses": []}
    for number, name in enumerate(NAMES):
        about = {
            "run_id": RUN,
            "analysis_id": f"{name}-1",
            "name": name,
            "parameters": json.dumps(PARAMETERS.get(name, {})),
        }
        rows["analyses"].append(
            about
            | {"snapshot": "0" * 16, "n_sequences": 4, "created_at": datetime(2026, 11, 20, 14, number, tzinfo=UTC)}
        )
    for sequence in sequences[:4]:
        rows.setdefault("logit_lens", []).extend(_lens(rng, sequence))
        rows.setdefault("logit_contributions", []).extend(_contributions(rng, sequence))
        rows.setdefault("second_order_scores", []).extend(_scores(rng, sequence))
    rows["neuron_effects"] = [_effect(rng, layer, neuron) for layer in range(LAYERS) for neuron in range(NEURONS)]
    rows |= _single_neurons(np.random.default_rng(1))
    rows["neuron_ranks"] = [
        {"run_id": RUN, "analysis_id": "neurons-1", "layer": layer, "neuron": neuron, "score": float(rng.gamma(1))}
        | {"mean_abs": 0.5, "variance": 0.1, "direct_effect": 0.7, "rank": neuron, "n_prompts": 4}
        for layer in range(LAYERS)
        for neuron in range(NEURONS)
    ]
    rows["second_order_heads"] = [
        {"run_id": RUN, "analysis_id": "second-order-1", "layer_from": low, "neuron": neuron, "layer_to": high}
        | {"head": head, "mean": float(rng.normal()), "mean_abs": float(rng.gamma(1)), "n_sequences": 4}
        for low in range(LAYERS)
        for high in range(low + 1, LAYERS)
        for head in range(HEADS)
        for neuron in range(3)
    ]
    return rows


def _lens(rng: np.random.Generator, sequence: dict) -> list[dict]:
    last = sequence["n_prompt_tokens"] + sequence["n_generated_tokens"] - 1
    return [
        {"run_id": RUN, "sequence_id": sequence["sequence_id"], "analysis_id": "lens-1", "layer": layer}
        | {"position": position, "entropy_bits": 1.0, "top1_prob": 0.5, "kl_bits": float(LAYERS - layer)}
        | ({} if position == last else {"logprob": -float(rng.gamma(2)), "rank": layer})
        | {"topk_ids": [1, 2], "topk_logprobs": [-0.7, -1.4]}
        for position in range(last + 1)
        for layer in range(LAYERS)
    ]


def _contributions(rng: np.random.Generator, sequence: dict) -> list[dict]:
    parts = [("embedding", None), *((p, k) for k in range(LAYERS) for p in ("attn_out", "mlp_out")), ("bias", None)]
    key = {"run_id": RUN, "sequence_id": sequence["sequence_id"], "analysis_id": "attribution-1"}
    key |= {"position": sequence["n_prompt_tokens"], "token_a": 1, "token_b": 2}
    values = rng.normal(size=len(parts))
    total = {"logit_diff": float(values.sum()), "logit_diff_uncapped": float(values.sum())}
    return [
        key | total | {"part": part, "layer": layer, "contribution": float(value)}
        for (part, layer), value in zip(parts, values, strict=True)
    ]


def _scores(rng: np.random.Generator, sequence: dict) -> list[dict]:
    key = {"run_id": RUN, "sequence_id": sequence["sequence_id"], "analysis_id": "second-order-1", "scaling": "plain"}
    key |= {"position": sequence["n_prompt_tokens"] - 1, "dtype": "float32", "dim": NEURONS}
    return [
        key | {"layer": layer, "effect": effect, "total": 0.0, "vector": rng.normal(size=NEURONS).tolist()}
        for layer in range(LAYERS)
        for effect in ("second_order", "direct")
    ]


def _effect(rng: np.random.Generator, layer: int, neuron: int) -> dict:
    key = {"run_id": RUN, "analysis_id": "neuron-effects-1", "scores_id": "second-order-1", "layer": layer}
    key |= {"neuron": neuron, "n_sequences": 4, "share_significant": 0.1, "direct_effect": float(rng.normal())}
    size = float(rng.gamma(1)) * (LAYERS - 1 - layer)
    return key | {"mean": 0.1 * size, "sd": size, "mean_abs": size, "difference": float(rng.normal()), "p_holm": 0.5}


def _single_neurons(rng: np.random.Generator) -> dict[str, list[dict]]:
    """Ablated layers, and two neurons with a component, words and a measured effect."""
    places = [(site, layer) for site in ("attn_out", "mlp_out") for layer in range(LAYERS)]
    return {
        "layer_ablations": [
            {
                "run_id": RUN, "analysis_id": "layer-ablations-1", "ablation_id": "ablation-1", "site": site,
                "layer": layer, "action": "zero", "scope": "all", "n_problems": 9, "n_graded": 9, "loss": 1.0,
                "loss_change": float(rng.random()), "loss_ci_low": 0.0, "loss_ci_high": 1.0, "accuracy": 0.5,
                "accuracy_change": -0.1, "accuracy_ci_low": -0.2, "accuracy_ci_high": 0.0,
            }
            for site, layer in places
        ],
        "neuron_components": [
            {
                "run_id": RUN, "analysis_id": "neuron-pca-1", "paths_id": "neuron-paths-1", "layer": 0,
                "neuron": neuron, "n": 20, "top_k": 20, "smallest_norm": 0.1, "share": 0.8 + 0.1 * neuron,
                "dtype": "float32", "dim": 2, "vector": [1.0, 0.0],
            }
            for neuron in range(2)
        ],
        "neuron_words": [
            {
                "run_id": RUN, "analysis_id": "neuron-words-1", "components_id": "neuron-pca-1", "layer": 0,
                "neuron": neuron, "place": place, "token_id": place, "word": f"word{place}",
                "coefficient": 0.5 - place, "explained": 0.2 + 0.2 * place,
            }
            for neuron in range(2)
            for place in range(3)
        ],
        "effect_validation": [
            {
                "run_id": RUN, "analysis_id": "neuron-ablation-1", "paths_id": "neuron-paths-1", "layer": 0,
                "neuron": neuron, "n_problems": 9, "predicted_second_order": float(rng.normal()),
                "predicted_direct": 0.1, "measured": float(rng.normal()), "ci_low": -1.0, "ci_high": 1.0,
                "correlation_second_order": 0.5, "correlation": 0.7,
            }
            for neuron in range(2)
        ],
    }  # fmt: skip
