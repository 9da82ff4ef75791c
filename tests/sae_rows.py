"""Rows of the tables of autoencoders for lakes that are made of rows: one autoencoder, `sae-1`, of layer 3."""

from typing import Any

SAE = "sae-1"
N_FEATURES = 4
"""Feature 3 is dead."""


def sae_rows(run_id: str) -> dict[str, list[dict[str, Any]]]:
    """Rows by table."""
    key = {"run_id": run_id, "sae_id": SAE}
    sae = key | {"arch": "topk", "layer": 3, "site": "resid_post", "d_in": 8, "d_out": 8, "d_sae": N_FEATURES, "k": 2}
    training = [
        key | {"step": step, "n_tokens": 100 * step, "loss": 9.0 / step, "mse": 8.0 / step, "fvu": 1 / step, "dead": 1}
        | {"l0": 2.0, "lr": 1e-3, "validation_fvu": 1.1 / step if step % 5 == 0 else None, "tokens_per_s": 1e4}
        for step in range(1, 11)
    ]  # fmt: skip
    sums = {"n": 100, "d_sae": 4, "sum_x_sq": 900.0, "sq_of_sum_x": 10_000.0, "sum_error_sq": 80.0, "n_dead": 1}
    sums |= {"sum_reconstruction_sq": 790.0, "sum_inner": 800.0, "sum_cosine": 95.0, "sum_norm_ratio": 97.0}
    sums |= {"n_ratio": 100, "sum_l0": 200, "sum_l1": 150.0, "n_dense": 2, "density_histogram": [1, 0, 1, 2]}
    sums |= {
        "n_ce": 50,
        "sum_ce_clean": 50.0,
        "sum_ce_reconstruction": 55.0,
        "sum_ce_zero": 250.0,
        "sum_ce_mean": 150.0,
    }
    sums |= {"sum_kl_reconstruction": 4.0, "sum_kl_zero": 200.0, "sum_kl_mean": 100.0}
    stats, examples = [], []
    for feature in range(N_FEATURES):
        active = feature < N_FEATURES - 1
        row = key | {
            "analysis_id": "sae-features-1",
            "feature": feature,
            "n_active": 40 * active,
            "n_sequences": 8 * active,
        }
        numbers = {
            "sum": 80.0,
            "sum_sq": 200.0,
            "max": 9.0,
            "q50": 2.0,
            "q90": 5.0,
            "q99": 8.0,
            "top_tokens": ["a", "b"],
        }
        rule = {"top_token_counts": [30, 10], "label": "'a'", "precision": 0.9, "recall": 0.6}
        stats.append(row | (numbers | rule if active else {"sum": 0.0, "sum_sq": 0.0, "reason": "never active"}))
        for place in range(3 * active):
            where = {"sequence_id": place, "position": 5 + place, "text": "see a here", "peak_start": 3, "peak_end": 5}
            about = {"analysis_id": "sae-features-1", "feature": feature, "kind": "top", "quantile": -1, "place": place}
            examples.append(key | about | where | {"activation": 9.0 - place})
    judged = [
        key
        | {"analysis_id": "sae-labels-1", "feature": feature, "kind": kind, "judge": "a-judge", "label": "the letter a"}
        | {"balanced_accuracy": None if kind == "label" else 0.9 - 0.2 * feature, "content": f"{feature}-{kind}"}
        for feature in range(2)
        for kind in ("label", "detection", "fuzzing")
    ]
    evaluation = key | {"analysis_id": "sae-eval-1", "split": "all"} | sums
    return {
        "saes": [sae],
        "sae_training": training,
        "sae_evaluations": [evaluation],
        "feature_stats": stats,
        "feature_examples": examples,
        "feature_judgements": judged,
        "feature_activations": [
            key
            | {"analysis_id": "sae-features-1", "feature": i % N_FEATURES, "sequence_id": i % 8, "position": 5 + i}
            | {"activation": 1.0 + i}
            for i in range(8)
        ],
    }
