"""The health verdicts a second time, one trace after another in plain Python, written from docs/health.md.

`judge` takes the rows of one sequence and the numbers of one profile; nothing here reads SQL of the package.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

BASE = {"entropy": 4.0, "cosine": 0.9995, "last": None, "multiplier": 8.0, "middle": statistics.median, "any": False}
PROFILES: dict[str, dict[str, Any]] = {
    "default": BASE | {"focused": 0.9},
    "gpt2": BASE | {"entropy": 5.0, "multiplier": 5.0, "focused": 0.9},
    "llama": BASE | {"entropy": 3.5, "cosine": 0.9998, "multiplier": 10.0, "focused": 0.85},
    "v0.3": BASE | {"last": 5, "multiplier": 5.0, "middle": statistics.fmean, "any": True, "focused": 0.9},
    "v0.5": BASE | {"last": 5, "focused": 0.9},
}


@dataclass
class Trace:
    """The rows of one sequence; `layers` and `heads` by position, tokens in order."""

    sequence: Row
    tokens: list[Row]
    layers: dict[int, list[Row]]
    heads: dict[int, list[Row]]
    n_layers: int

    @property
    def steps(self) -> list[Row]:
        """Generated tokens in order."""
        return [token for token in self.tokens if token["step"] is not None]

    def series(self, column: str) -> list[float]:
        """Finite values of the generated steps."""
        values = [step[column] for step in self.steps]
        return [value for value in values if value is not None and math.isfinite(value)]


def collapsed(head: Row, profile: Row) -> bool:
    """Whether one head's row is collapsed under the profile's rule."""
    if head["n_keys"] < 2 or head["entropy_bits"] is None:
        return False
    nats = head["entropy_bits"] * math.log(2)
    return nats < 0.1 if profile["any"] else nats / math.log(head["n_keys"]) < 0.03


def step_heads(trace: Trace, profile: Row) -> list[tuple[int, int, int]]:
    """Per step: heads that can be judged, collapsed ones, focused ones."""
    counts = []
    for step in trace.steps:
        rows = [h for h in trace.heads.get(step["position"] - 1, []) if h["n_keys"] >= 2]
        focused = sum(1 for h in rows if h["max_weight"] > profile["focused"])
        counts.append((len(rows), sum(collapsed(h, profile) for h in rows), focused))
    return counts


def collapse(trace: Trace, profile: Row) -> tuple[bool, float | None]:
    """The flag under the profile's rule, and the severity under the rule of rates."""
    by_rate = step_heads(trace, profile | {"any": False})
    rates = [count / n for n, count, _ in by_rate if n]
    severity = None
    if len(rates) >= 4:
        window = max(1, min(5, len(rates) // 3))
        rise = max(rates) - statistics.fmean(rates[:window])
        severity = 0.4 if rise > 0.25 else 0.2 if rise > 0.15 else None
    if rates and statistics.fmean(rates) > 0.7:
        severity = 0.8
    if profile["any"]:
        return any(count for _, count, _ in step_heads(trace, profile)), severity
    return severity is not None, severity


def loop(trace: Trace, profile: Row) -> int | None:
    """Position of the first state of the first loop that repeats the one before it; None without a loop."""
    steps = trace.steps
    considered = steps[-(profile["last"] - 1) :] if profile["last"] and len(steps) >= profile["last"] else steps[1:]
    run = 0
    for step in considered:
        (state,) = [row for row in trace.layers[step["position"] - 1] if row["site"] == "final_norm"]
        cosine = state["cos_prev_position"]
        run = run + 1 if cosine is not None and cosine > profile["cosine"] else 0
        if run == 3:
            return step["position"] - 3
    return None


def mid_layer_steps(trace: Trace, profile: Row) -> list[int]:
    """Positions of the tokens that an anomalous middle layer led to."""
    third, two_thirds = trace.n_layers // 3, 2 * trace.n_layers // 3
    found = []
    for step in trace.steps:
        states = {r["layer"]: r for r in trace.layers[step["position"] - 1] if r["site"] == "resid_post"}
        early = [states[i]["l2_norm"] for i in range(third)]
        early = [norm for norm in early if norm is not None and math.isfinite(norm)]
        threshold = profile["multiplier"] * profile["middle"](early) if early else 1000.0
        middle = [states[i] for i in range(third, two_thirds)]
        if any(r["n_nan"] or r["n_inf"] or (r["l2_norm"] or 0) > threshold for r in middle):
            found.append(step["position"])
    return found


def slope(values: list[float]) -> float:
    """Least-squares slope over the index."""
    return statistics.linear_regression(range(len(values)), values).slope


def compound(trace: Trace, profile: Row) -> dict[str, float]:
    """Compound signals by name with their severities."""
    entropy, margin = trace.series("entropy_bits"), trace.series("margin")
    surprisal, mass = trace.series("surprisal_bits"), trace.series("top10_mass")
    last = {name: statistics.fmean(v[-5:]) for name, v in zip("emsk", (entropy, margin, surprisal, mass), strict=True)}
    basins = [h["basin_ratio"] for rows in trace.heads.values() for h in rows if h["basin_ratio"] is not None]
    rates = [count / n for n, count, _ in step_heads(trace, profile) if n]
    signals = {}
    if last["e"] > 4 and basins and statistics.fmean(basins) < 0.3:
        signals["context_loss"] = 0.75
    if last["e"] > 4 and last["m"] > 0.3:
        signals["confident_confusion"] = 0.5
    if len(entropy) >= 10 and slope(entropy) > 0.05 and slope(margin) < -0.01 and slope(surprisal) > 0.05:
        signals["degenerating_generation"] = 0.7
    if statistics.fmean(rates) > 0.2 and statistics.fmean(entropy) > 3.5:
        signals["attention_bottleneck"] = 0.65
    if last["e"] < 2 and last["s"] < 1 and last["k"] > 0.95:
        signals["confident_repetition_risk"] = 0.4
    return signals


def risk_parts(trace: Trace) -> dict[str, float]:
    """The additive parts of risk v0.5 that are above their cuts."""
    entropy = trace.series("entropy_bits")
    parts = {}
    level = 0.3 * min(1.0, statistics.fmean(entropy) / 8)
    if level > 0.05:
        parts["elevated_entropy"] = level
    if len(entropy) >= 6:
        third = len(entropy) // 3
        first, last = statistics.fmean(entropy[:third]), statistics.fmean(entropy[-third:])
        if first > 1e-9 and last > 1.3 * first:
            parts["entropy_rising"] = min(0.2, 0.1 * (last - first) / first)
    margin = 0.2 * max(0.0, 1 - 5 * statistics.fmean(trace.series("margin")))
    if margin > 0.05:
        parts["low_confidence_margin"] = margin
    mass = 0.15 * max(0.0, 1 - statistics.fmean(trace.series("top10_mass")))
    if mass > 0.03:
        parts["low_topk_mass"] = mass
    surprisal = min(0.1, statistics.fmean(trace.series("surprisal_bits")) / 10)
    if surprisal > 0.02:
        parts["elevated_surprisal"] = surprisal
    return parts


def warnings_v05(trace: Trace, profile: Row, flags: Row) -> dict[str, float]:
    """Early-warning signals of v0.5 by name with their values."""
    entropy, margin, surprisal = (trace.series(c) for c in ("entropy_bits", "margin", "surprisal_bits"))
    found = {}
    if len(entropy) >= 10:
        means = [statistics.fmean(entropy[i : i + 5]) for i in range(len(entropy) - 4)]
        rises = [b - a for a, b in zip(means, means[1:], strict=False)][-3:]
        if min(rises) > 0 and rises[-1] > rises[0]:
            found["entropy_accelerating"] = 0.7
    if len(margin) >= 5 and all(m < 0.1 for m in margin[-5:]):
        found["margin_collapsed"] = 0.6
    elif len(margin) >= 10 and sum(margin[:5]) > 0 and sum(margin[-5:]) / sum(margin[:5]) < 0.3:
        found["margin_declining"] = 0.5
    tail = surprisal[-5:]
    if len(tail) == 5 and sum(tail) > 0 and statistics.stdev(tail) / statistics.fmean(tail) > 1.5:
        found["surprisal_volatile"] = 0.5
    if len(entropy) >= 5 and sum(entropy[-5:]) / 5 > profile["entropy"] and sum(margin[-5:]) / 5 > 0.3:
        found["entropy_margin_divergence"] = 0.55
    ceilings = {"repetition_loop": 0.9, "mid_layer_anomaly": 0.6, "attention_collapse": 0.4}
    return found | {name: value for name, value in ceilings.items() if flags[name]}


def warning_v04(trace: Trace, flags: Row) -> float:
    """The older early warning."""
    entropy = trace.series("entropy_bits")
    if flags["repetition_loop"]:
        return 0.9
    rising = len(entropy) > 1 and entropy[-1] > entropy[0]
    if len(entropy) >= 5:
        rising = sum(entropy[-5:]) > sum(entropy[:5])
    return 0.6 if rising and max(entropy) > 4 else 0.3


def judge(trace: Trace, name: str) -> Row:
    """Every verdict on one trace under one profile, under the names of the saved query `health`."""
    profile = PROFILES[name]
    states = [row for rows in trace.layers.values() for row in rows]
    first, anomalies = loop(trace, profile), mid_layer_steps(trace, profile)
    is_collapsed, severity = collapse(trace, profile)
    flags = {
        "repetition_loop": first is not None,
        "mid_layer_anomaly": bool(anomalies),
        "attention_collapse": is_collapsed,
    }
    high = sum(entropy > profile["entropy"] for entropy in trace.series("entropy_bits"))
    nan, infinite = any(s["n_nan"] for s in states), any(s["n_inf"] for s in states)
    broken = trace.sequence["finish_reason"] == "broken"
    signals, parts, warned = compound(trace, profile), risk_parts(trace), warnings_v05(trace, profile, flags)
    ceilings = {"repetition_loop": 0.9, "mid_layer_anomaly": 0.7, "attention_collapse": severity or 0.15}
    fired = {flag: value for flag, value in ceilings.items() if flags[flag]}
    v05 = min(1.0, max(fired.values(), default=0.0) + sum(parts.values()) + sum(signals.values()))
    older = max(0.9 * flags["repetition_loop"], 0.7 * flags["mid_layer_anomaly"], 0.3 * is_collapsed)
    v04 = min(1.0, older + 0.5 * min(1.0, high / len(trace.tokens)))
    bad = nan or infinite or broken
    return flags | {
        "is_broken": broken,
        "has_nan": nan,
        "has_inf": infinite,
        "attention_collapse_severity": severity,
        "high_entropy_steps": high,
        "repetition_first_position": first,
        "mid_layer_first_position": min(anomalies, default=None),
        "mid_layer_steps": len(anomalies),
        "risk_v04": 1.0 if bad else v04,
        "risk_v05": 1.0 if bad else v05,
        "risk_v05_factors": "nan_or_inf" if bad else ", ".join([*fired, *parts, *(f"compound:{s}" for s in signals)]),
        "early_warning_v04": warning_v04(trace, flags),
        "early_warning_v05": max(warned.values(), default=0.0),
        "early_warning_v05_signals": ", ".join(warned),
        "compound_signals": ", ".join(signals),
        "reason": None,
    }


def blame(trace: Trace, name: str, layer: int) -> Row:
    """What `layer_blame` says of one layer."""
    profile = PROFILES[name]
    at = [step["position"] - 1 for step in trace.steps]

    def norms(index: int) -> list[float]:
        rows = [r for p in at for r in trace.layers[p] if (r["layer"], r["site"]) == (index, "resid_post")]
        return [r["l2_norm"] for r in rows if r["l2_norm"] is not None and math.isfinite(r["l2_norm"])]

    means = [statistics.fmean(norms(index)) for index in range(trace.n_layers)]
    mine = norms(layer)
    bad = any(r["n_nan"] or r["n_inf"] for rows in trace.layers.values() for r in rows if r["layer"] == layer)
    hits = [any(collapsed(h, profile) for h in trace.heads[p] if h["layer"] == layer) for p in at]
    large = means[layer] - statistics.fmean(means) > 2.5 * statistics.stdev(means)
    unsteady = len(mine) >= 3 and statistics.stdev(mine) / statistics.fmean(mine) > 0.5
    found = {"nan_or_inf": 1.0 * bad, "large_norm": 0.5 * large}
    found |= {"collapsed_heads": 0.4 * (sum(hits) / len(hits) > 0.5), "unsteady_norm": 0.3 * unsteady}
    found = {name: value for name, value in found.items() if value}
    return {
        "is_blamed_v04": bad or any(hits),
        "severity": max(found.values(), default=0.0),
        "reasons": ", ".join(found),
    }
