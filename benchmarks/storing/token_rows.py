"""Made-up token and layer rows of realistic shape, written through the store's own writer."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tracelake.lake import Lake

N_PROMPT, LENGTH, TOPK, D_VOCAB, N_LAYERS = 50, 200, 10, 50_257, 6
SITES = [("resid_pre", 0), *(("resid_post", layer) for layer in range(N_LAYERS)), ("final_norm", N_LAYERS - 1)]
SEGMENT_SEQUENCES = 2_500
WORDS = np.array([f" w{i}" for i in range(D_VOCAB)], dtype=object)
LAYER_FLOATS = ("l2_norm", "mean", "std", "max_abs", "cos_prev_layer", "cos_prev_position", "delta_norm")
ATTENTION_FLOATS = tuple(f"attn_{n}_{r}" for n in ("entropy_bits", "max_weight") for r in ("mean", "min", "max"))


def token_columns(sequences: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """All columns of `token_steps` for whole sequences; ids are Zipfian, surprisal is exponential."""
    n = len(sequences) * LENGTH
    position = np.tile(np.arange(LENGTH, dtype=np.int32), len(sequences))
    step = position - N_PROMPT
    first, in_prompt = position == 0, step < 0
    surprisal = rng.exponential(3.0, n).astype(np.float32)
    ids = (rng.zipf(1.3, n) % D_VOCAB).astype(np.int32)
    top1 = rng.beta(2, 3, n).astype(np.float32)
    floats = {
        "logprob": -surprisal * np.float32(np.log(2)),
        "surprisal_bits": surprisal,
        "entropy_bits": rng.gamma(3.0, 1.0, n).astype(np.float32),
        "top1_prob": top1,
        "margin": top1 * rng.random(n, dtype=np.float32),
        "top10_mass": np.minimum(1, top1 + rng.random(n, dtype=np.float32) / 2).astype(np.float32),
        "latency_ms": np.repeat(rng.gamma(9.0, 5.0, n // 8 + 1).astype(np.float32), 8)[:n],
    }
    columns = {
        name: pa.array(values, mask=first if name != "latency_ms" else in_prompt) for name, values in floats.items()
    }
    return {
        "sequence_id": np.repeat(sequences, LENGTH),
        "position": position,
        "stack": "decoder",
        "step": pa.array(step, mask=in_prompt),
        "is_prompt": in_prompt,
        "is_forced": False,
        "token_id": ids,
        "token": WORDS[ids].tolist(),
        "char_end": (np.where(in_prompt, position, step) + 1).astype(np.int32) * 5,
        "rank": pa.array((rng.zipf(1.7, n) - 1).clip(max=D_VOCAB - 1).astype(np.int32), mask=first),
        **columns,
        "topk_ids": rng.integers(0, D_VOCAB, (n, TOPK), dtype=np.int32),
        "topk_logprobs": -np.sort(rng.gamma(4.0, 1.0, (n, TOPK)).astype(np.float32), axis=1),
    }


def layer_columns(sequences: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """All columns of `layer_summaries` for whole sequences: six layers, eight sites."""
    n_tokens = len(sequences) * LENGTH
    n = n_tokens * len(SITES)
    position = np.tile(np.arange(LENGTH, dtype=np.int32), len(sequences))
    names = sorted({site for site, _ in SITES})
    codes = np.tile(np.array([names.index(site) for site, _ in SITES], dtype=np.int8), n_tokens)
    no_attention = np.tile(np.array([site != "resid_post" for site, _ in SITES]), n_tokens)
    columns: dict[str, object] = {
        "sequence_id": np.repeat(sequences, LENGTH * len(SITES)),
        "position": np.repeat(position, len(SITES)),
        "layer": np.tile(np.array([layer for _, layer in SITES], dtype=np.int32), n_tokens),
        "site": pa.DictionaryArray.from_arrays(codes, names),
        "stack": "decoder",
        "n_nan": np.zeros(n, np.int32),
        "n_inf": np.zeros(n, np.int32),
    }
    columns |= {name: rng.standard_normal(n, np.float32) * np.float32(0.1) + 1 for name in LAYER_FLOATS}
    columns |= {name: pa.array(rng.random(n, np.float32), mask=no_attention) for name in ATTENTION_FLOATS}
    return columns


def sequence_columns(sequences: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """Graded completions, four samples per prompt."""
    n = len(sequences)
    correct = rng.random(n) < 0.6
    return {
        "sequence_id": sequences,
        "prompt_id": [f"{i // 4:016x}" for i in sequences.tolist()],
        "item_id": [str(i // 4) for i in sequences.tolist()],
        "sample": (sequences % 4).astype(np.int32),
        "origin": "sampled",
        "prompt": ["What is the next word? " * 8] * n,
        "completion": [" some text" * 75] * n,
        "n_prompt_tokens": np.full(n, N_PROMPT, np.int32),
        "n_generated_tokens": np.full(n, LENGTH - N_PROMPT, np.int32),
        "finish_reason": ["length" if c else "eos" for c in correct.tolist()],
        "temperature": 1.0,
        "answer": "yes",
        "predicted_answer": ["yes" if c else "no" for c in correct.tolist()],
        "correct": correct,
        "solution_method": ["direct" if i % 3 else "split" for i in sequences.tolist()],
        "metadata": [f'{{"level": {i % 3}}}' for i in sequences.tolist()],
        "batch_size": 8,
        "batch_index": (sequences % 8).astype(np.int32),
    }


def write_run(lake: Lake, run_id: str, n_tokens: int, n_layer_tokens: int) -> None:
    """A complete run of `n_tokens` tokens, of which the first `n_layer_tokens` have layer rows."""
    segments = list(_segments(n_tokens // LENGTH))
    plan = {"segments": [list(bounds) for bounds in segments]}
    with lake.start_run(run_id, {"tag": run_id, "plan": plan, "config": {}, "model": {"n_layers": N_LAYERS}}) as run:
        for index, (start, stop) in enumerate(segments):
            rng = np.random.default_rng(index)
            sequences = np.arange(start, stop)
            with run.segment(index, (start, stop)) as segment:
                segment.append("sequences", sequence_columns(sequences, rng))
                segment.append("token_steps", token_columns(sequences, rng))
                described = sequences[sequences < n_layer_tokens // LENGTH]
                for part in np.array_split(described, max(1, len(described) // 500)):
                    if len(part):
                        segment.append("layer_summaries", layer_columns(part, rng))
        run.finish()


def _segments(n_sequences: int) -> Iterator[tuple[int, int]]:
    for start in range(0, n_sequences, SEGMENT_SEQUENCES):
        yield start, min(start + SEGMENT_SEQUENCES, n_sequences)
