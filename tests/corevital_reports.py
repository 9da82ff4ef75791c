"""Small CoreVital reports of every version, made from random states, attention and logits that the tests know.

The shapes are those of the published schema; every number is computed here, in numpy, from the arrays in `Truth`.
"""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LAYERS, HEADS, WIDTH, VOCABULARY = 6, 4, 8, 40
PROMPT = "Tom has 3 apples"
PROMPT_IDS = [7, 3, 11, 2, 9]
WORDS = [" so", " x", " =", " 3", "."]


@dataclass
class Truth:
    """What the model did: everything a report is computed from.

    `states[step][entry]` is [positions, WIDTH] with entry 0 the embeddings and the last one final-normed;
    `attention[step][layer]` is [HEADS, queries, keys]; `logits[step]` is [VOCABULARY].
    """

    states: list[list[np.ndarray]]
    attention: list[list[np.ndarray]]
    logits: list[np.ndarray]
    tokens: list[int]
    prompt_logprobs: np.ndarray
    generation: dict[str, Any]
    architecture: str = "LlamaForCausalLM"
    cross: list[list[np.ndarray]] | None = None
    encoder: list[np.ndarray] = field(default_factory=list)
    encoder_attention: list[np.ndarray] = field(default_factory=list)
    trace_id: str = ""
    extra_layers: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    @property
    def two_stacks(self) -> bool:
        """Whether the model has an encoder."""
        return self.cross is not None

    def scores(self, step: int) -> np.ndarray:
        """Log-probabilities [VOCABULARY] of what the report measured: processed, or raw with an encoder."""
        return log_softmax(self.logits[step] if self.two_stacks else self.processed(step))

    def processed(self, step: int) -> np.ndarray:
        """Logits after temperature and top-k."""
        if not self.generation["do_sample"]:
            return self.logits[step]
        warm = self.logits[step] / self.generation["temperature"]
        cut = np.sort(warm)[-self.generation["top_k"]] if self.generation["top_k"] else -np.inf
        return np.where(warm >= cut, warm, -np.inf)


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Log-probabilities along the last axis."""
    top = x.max(axis=-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True))


def truth(
    seed: int,
    *,
    steps: int = 12,
    sample: bool = True,
    two_stacks: bool = False,
    sharp: float = 1.5,
    heat: float = 3,
    top_k: int = 12,
) -> Truth:
    """Random states that grow with depth, random attention, random logits."""
    rng = np.random.default_rng(seed)
    n = len(PROMPT_IDS)
    growth = np.array([0.3, 1, 1.3, 1.7, 2.2, 2.8, 1.0])
    lengths = [1 if two_stacks or step else n for step in range(steps)]
    states = [[rng.normal(size=(length, WIDTH)) * growth[e] for e in range(LAYERS + 1)] for length in lengths]
    attention = []
    for step, length in enumerate(lengths):
        keys = step + 1 if two_stacks else n + step
        scores = rng.normal(size=(LAYERS, HEADS, length, keys)) * sharp
        if length > 1:
            scores = np.where(np.tril(np.ones((length, keys), bool)), scores, -np.inf)
        attention.append(list(np.exp(log_softmax(scores))))
    generation = {"do_sample": sample, "temperature": 0.8, "top_k": top_k, "top_p": 1.0}
    logits = list(rng.normal(size=(steps, VOCABULARY)) * heat)
    found = Truth(states, attention, logits, [], log_softmax(rng.normal(size=(n - 1, VOCABULARY))), generation)
    found.trace_id = str(uuid.UUID(int=int(rng.integers(2**62))))
    if two_stacks:
        found.architecture = "T5ForConditionalGeneration"
        found.cross = [list(np.exp(log_softmax(rng.normal(size=(LAYERS, HEADS, 1, n))))) for _ in range(steps)]
        found.encoder = [rng.normal(size=(n, WIDTH)) for _ in range(LAYERS)]
        found.encoder_attention = list(np.exp(log_softmax(rng.normal(size=(LAYERS, HEADS, n, n)))))
    for step in range(steps):
        probabilities = np.exp(log_softmax(found.processed(step)))
        found.tokens.append(int(rng.choice(VOCABULARY, p=probabilities) if sample else probabilities.argmax()))
    return found


# -- summaries, as the program computes them ---------------------------------------------------------------------------


def logits_summary(truth: Truth, step: int, version: str, rewritten: bool) -> dict[str, Any]:
    """Bits; top 5 with three decimals."""
    logp = truth.scores(step)
    p = np.exp(logp)
    best = np.sort(p)[::-1]
    entropy = float(-(p[p > 0] * logp[p > 0]).sum() / np.log(2))
    top = [{"token_id": int(i), "token_text": f"t{i}", "prob": round(float(p[i]), 3)} for i in np.argsort(-p)[:5]]
    found: dict[str, Any] = {"entropy": entropy, "top1_top2_margin": float(best[0] - best[1]), "topk": top}
    if version > "0.2":
        found |= {"top_k_margin": float(best[0] - best[1]), "voter_agreement": float(best[:10].sum())}
        found |= {"perplexity": 2**entropy, "surprisal": float(-logp[truth.tokens[step]] / np.log(2))}
    if rewritten:
        found |= {"topk_mass": found["voter_agreement"], "topk_probs": top}
        del found["top1_top2_margin"]
    return found


def hidden_summary(states: np.ndarray) -> dict[str, Any]:
    """Over all positions and elements; the norm averaged over positions."""
    return {
        "mean": float(states.mean()),
        "std": float(states.std(ddof=1)),
        "l2_norm_mean": float(np.linalg.norm(states, axis=-1).mean()),
        "max_abs": float(np.abs(states).max()),
        "sketch": [round(float(x), 2) for x in states.mean(axis=0)[:3]],
    }


def head_entropies(weights: np.ndarray) -> np.ndarray:
    """Nats [HEADS], averaged over queries."""
    return -(weights * np.log(np.maximum(weights, 1e-10))).sum(axis=-1).mean(axis=-1)


def attention_summary(weights: np.ndarray, version: str, rewritten: bool) -> dict[str, Any]:
    """Nats; heads x queries x keys."""
    entropy, largest = head_entropies(weights), weights.max(axis=-1)
    keys = weights.shape[-1]
    found = {"entropy_mean": entropy.mean(), "entropy_min": entropy.min(), "concentration_max": largest.max()}
    if version > "0.2":
        found |= {"entropy_max": entropy.max(), "concentration_min": largest.min()}
        share = entropy / np.log(keys) if keys > 1 else entropy
        collapsed = (share < 0.03) if rewritten else (entropy < 0.1)
        found |= {"collapsed_head_count": int(collapsed.sum())}
        found |= {"focused_head_count": int((largest.mean(axis=-1) > 0.9).sum())}
    if rewritten:
        found |= {"entropy_mean_normalized": share.mean(), "collapsed_head_rate": round(collapsed.mean(), 4)}
    return {name: value if isinstance(value, int) else float(value) for name, value in found.items()}


def layer_entries(truth: Truth, step: int, version: str, rewritten: bool) -> list[dict[str, Any]]:
    """One entry per layer; before the rewrite the hidden state of entry i lies below block i."""
    first = 1 if rewritten or truth.two_stacks else 0
    entries = []
    for layer in range(LAYERS):
        weights = truth.attention[step][layer]
        entry = {
            "layer_index": layer,
            "hidden_summary": hidden_summary(truth.states[step][first + layer]),
            "attention_summary": attention_summary(weights[:, -1:] if rewritten else weights, version, rewritten),
            "extensions": {},
        }
        if version > "0.2":
            entry["anomalies"] = {"has_nan": False, "has_inf": False}
        if truth.cross is not None:
            entry["cross_attention"] = attention_summary(truth.cross[step][layer], version, rewritten)
        entries.append(entry | truth.extra_layers.get((step, layer), {}))
    return entries


def prompt_analysis(truth: Truth) -> dict[str, Any]:
    """Edges over 0.2, basins, transformations; surprisals only where the prompt is predicted."""
    n = len(PROMPT_IDS)
    layers = []
    for weights in truth.encoder_attention or truth.attention[0]:
        heads = []
        for head in weights:
            queries, keys = np.nonzero(head > 0.2)
            values = [round(float(w), 4) for w in head[queries, keys]]
            heads.append({"query_indices": queries.tolist(), "key_indices": keys.tolist(), "weights": values})
        middle = weights[..., n // 3 : 2 * n // 3].sum(axis=-1).mean(axis=-1)
        basins = middle / (1 - middle + 1e-10)
        layers.append({"heads": heads, "basin_scores": [round(float(b), 4) for b in basins]})
    chosen = -truth.prompt_logprobs[np.arange(n - 1), PROMPT_IDS[1:]] / np.log(2)
    surprisals = [] if truth.two_stacks else [round(float(s), 4) for s in chosen]
    return {
        "layers": layers,
        "layer_transformations": [0.1 * i for i in range(1, LAYERS)],
        "prompt_surprisals": surprisals,
    }


def health_flags(timeline: list[dict[str, Any]], rewritten: bool, *, loop: bool = False) -> dict[str, Any]:
    """The program's own rules, on the entries as they stand in the list."""
    anomaly = False
    for step in timeline:
        norms = [layer["hidden_summary"]["l2_norm_mean"] for layer in step["layers"]]
        early, middle = norms[: LAYERS // 3], norms[LAYERS // 3 : 2 * LAYERS // 3]
        anomaly |= max(middle) > (np.median(early) if rewritten else np.mean(early)) * 8
    counts = [[layer["attention_summary"].get("collapsed_head_count", 0) for layer in s["layers"]] for s in timeline]
    nan = any(layer["anomalies"]["has_nan"] for s in timeline for layer in s["layers"])
    inf = any(layer["anomalies"]["has_inf"] for s in timeline for layer in s["layers"])
    flags: dict[str, Any] = {"nan_detected": nan, "inf_detected": inf}
    severity = trend([sum(c) / (LAYERS * HEADS) for c in counts]) if rewritten else None
    flags["attention_collapse_detected"] = severity is not None if rewritten else bool(np.sum(counts))
    if severity is not None:
        flags["attention_collapse_severity"] = severity
    flags["high_entropy_steps"] = sum(s["logits_summary"]["entropy"] > 4 for s in timeline)
    return flags | {"repetition_loop_detected": loop, "mid_layer_anomaly_detected": bool(anomaly)}


def trend(rates: list[float]) -> float | None:
    """Severity of the collapse by rates."""
    severity = None
    if len(rates) >= 4:
        rise = max(rates) - float(np.mean(rates[: max(1, min(5, len(rates) // 3))]))
        severity = 0.4 if rise > 0.25 else 0.2 if rise > 0.15 else None
    return 0.8 if np.mean(rates) > 0.7 else severity


def report(truth: Truth, version: str, *, rewritten: bool | None = None, loop: bool = False) -> dict[str, Any]:
    """The whole report; `rewritten` says which program wrote a report of version 0.4."""
    rewritten = version == "0.5" if rewritten is None else rewritten
    n = len(PROMPT_IDS)
    timeline = [
        {
            "step_index": n + step,
            "token": {"token_id": token, "token_text": WORDS[token % 5], "is_prompt_token": False},
            "logits_summary": logits_summary(truth, step, version, rewritten),
            "layers": layer_entries(truth, step, version, rewritten),
            "extensions": {},
        }
        for step, token in enumerate(truth.tokens)
    ]
    found: dict[str, Any] = {
        "schema_version": f"{version}.0",
        "trace_id": truth.trace_id,
        "created_at_utc": "2026-02-13T19:47:15Z",
        "model": {
            "hf_id": "example/tiny",
            "architecture": truth.architecture,
            "num_layers": LAYERS,
            "hidden_size": WIDTH,
            "num_attention_heads": HEADS,
            "tokenizer_hf_id": "example/tiny",
            "dtype": "float32",
            "device": "cpu",
            "quantization": {"enabled": False},
        },
        "run_config": {"seed": 42, "device_requested": "cpu", "max_new_tokens": 12, "generation": truth.generation},
        "prompt": {"text": PROMPT, "token_ids": list(PROMPT_IDS), "num_tokens": n},
        "generated": {
            "output_text": "".join(WORDS[token % 5] for token in truth.tokens),
            "token_ids": list(truth.tokens),
            "num_tokens": len(truth.tokens),
        },
        "timeline": timeline,
        "summary": {"prompt_tokens": n, "generated_tokens": len(truth.tokens), "total_steps": 17, "elapsed_ms": 812},
        "warnings": [],
    }
    if truth.two_stacks:
        states = zip(truth.encoder, truth.encoder_attention, strict=True)
        found["encoder_layers"] = [
            {
                "layer_index": i,
                "hidden_summary": hidden_summary(state),
                "attention_summary": attention_summary(weights, version, rewritten),
            }
            for i, (state, weights) in enumerate(states)
        ]
    if version > "0.2":
        found["prompt_analysis"] = prompt_analysis(truth)
        found["health_flags"] = health_flags(timeline, rewritten, loop=loop)
    if version > "0.3":
        found["extensions"] = {"risk": {"risk_score": 0.25, "risk_factors": ["elevated_entropy"]}}
    return found


def written(folder: Any, *reports: dict[str, Any]) -> list[Any]:
    """Files of the reports in a folder."""
    paths = []
    for one in reports:
        paths.append(folder / f"trace_{one['trace_id']}.json")
        paths[-1].write_text(json.dumps(one), encoding="utf-8")
    return paths
