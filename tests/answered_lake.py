"""A lake with answers to be told apart: planted states of two layers, their autoencoders and features, labels."""

import json
from pathlib import Path

import numpy as np
from sae_lakes import DIM, lake_of

from tracelake.analysis.sae.features import feature_tables
from tracelake.analysis.sae.training.options import TrainOptions
from tracelake.analysis.sae.training.trainer import start_training
from tracelake.lake import Lake

N_PROMPTS, SAMPLES, N_PROMPT, N_GENERATED = 50, 3, 3, 5
SITES = {(0, "resid_post"): DIM, (1, "resid_post"): DIM}
ANSWERS, READ = "answers-01", "read-0"


def answered_lake(path: Path) -> Lake:
    """Run `answers-01`, and the autoencoders of layers 0 and 1 that `read-0` trained, with their features of both."""
    lake = lake_of(path, sites=SITES, n=30)
    options = TrainOptions(
        layers=(0, 1), archs=("topk",), widths=("32",), ks=(4,), tokens=2_000, batch_size=256, lr=4e-3, commits=1,
        tag="saes",
    )  # fmt: skip
    trained = start_training(lake, [READ], options)
    add_answers(lake, ANSWERS)
    for sae_id in trained.sae_ids:
        for run in (READ, ANSWERS):
            feature_tables(lake, sae_id, run)
    return lake


def add_answers(
    lake: Lake, run_id: str, *, seed: int = 0, n_prompts: int = N_PROMPTS, samples: int = SAMPLES, right: float = 0.5
) -> None:
    """A run whose right answers are more probable, and lie further along the first coordinate."""
    rng = np.random.default_rng(seed)
    n = n_prompts * samples
    prompt, ids = np.repeat(np.arange(n_prompts), samples), np.arange(n)
    correct = rng.random(n) < right
    about = {"name": "m", "n_layers": 2, "weights_sha256": "m" * 8}
    length = N_PROMPT + N_GENERATED
    position = np.tile(np.arange(length, dtype=np.int32), n)
    keys = {"sequence_id": np.repeat(ids, length), "position": position, "stack": "decoder"}
    step = np.where(position >= N_PROMPT, position - N_PROMPT, -1)
    shown = np.repeat(correct, length)
    logprob = -rng.gamma(2, np.where(shown, 0.2, 0.6))
    with lake.start_run(run_id, {"kind": "generate", "model": about}) as run:
        with run.segment(0, (0, n)) as segment:
            segment.append("sequences", {
                "sequence_id": ids, "prompt_id": [f"p{one}" for one in prompt], "correct": correct,
                "sample": (ids % samples).astype(np.int32), "prompt": [f"question {one}" for one in prompt],
                "completion": ["an answer"] * n, "predicted_answer": [str(rng.integers(3)) for _ in ids],
                "metadata": [json.dumps({"level": int(one % 2)}) for one in prompt], "finish_reason": ["length"] * n,
                "n_prompt_tokens": np.full(n, N_PROMPT, np.int32),
                "n_generated_tokens": np.full(n, N_GENERATED, np.int32),
            })  # fmt: skip
            real = {
                "logprob": logprob,
                "surprisal_bits": -logprob / np.log(2),
                "entropy_bits": rng.gamma(2, 1, len(step)),
            }
            segment.append("token_steps", {
                **keys, "step": _nullable(step), "is_prompt": step < 0, "token_id": np.ones(len(step), np.int32),
                "token": [f"t{one}" for one in step], "margin": rng.random(len(step)).astype(np.float32),
                **{name: values.astype(np.float32) for name, values in real.items()},
            })  # fmt: skip
            vectors = rng.normal(size=(len(step), DIM)).astype(np.float32)
            vectors[:, 0] += shown
            for layer, site in SITES:
                states = vectors + 0.2 * layer * rng.normal(size=vectors.shape).astype(np.float32)
                segment.append_vectors(
                    "activations", columns=keys, vectors=states.astype(np.float32), dtype="float32", layer=layer,
                    site=site,
                )  # fmt: skip
        run.finish()


def _nullable(step: np.ndarray) -> list[int | None]:
    return [None if one < 0 else int(one) for one in step]
