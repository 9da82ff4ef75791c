"""Verdicts on imported reports: the views against the plain implementation, which is given what the program saw.

And against the report's own flags, where its rules are those of a profile.
"""

from pathlib import Path
from typing import Any

import health_by_hand
import numpy as np
import polars as pl
import pytest
from corevital_reports import LAYERS, PROMPT_IDS, Truth, head_entropies, report, truth, written
from health_by_hand import Trace, judge
from imported_reports import imported

import tracelake

N = len(PROMPT_IDS)
COMPARED = (
    "repetition_loop", "mid_layer_anomaly", "mid_layer_steps", "mid_layer_first_position", "has_nan", "has_inf",
    "attention_collapse", "high_entropy_steps", "risk_v04", "risk_v05", "risk_v05_factors", "early_warning_v04",
    "early_warning_v05", "early_warning_v05_signals", "compound_signals",
)  # fmt: skip
NEW, OLD = [(seed, seed % 2 == 1) for seed in range(100, 124)], [(seed, False) for seed in range(200, 218)]


def made(seed: int, version: str, two_stacks: bool) -> tuple[Truth, dict[str, Any], bool]:
    """A report with a fault of the kind that its seed says, what it was made from, and whether it loops."""
    kind = seed % 6
    heat, top_k = (0.7, VOCABULARY_ALL) if kind == 1 else (3, 12)
    one = truth(seed, two_stacks=two_stacks, sharp=(1.0, 1.5, 14.0, 2.0, 3.0, 7.0)[kind], heat=heat, top_k=top_k)
    for states in one.states[3:6] if kind == 3 else []:
        states[LAYERS // 2] *= 30  # the output of block 2, one of the middle third
    if kind == 5:  # heads that sharpen as the text grows
        for step in range(6, 12):
            one.attention[step] = [sharpened(weights) for weights in one.attention[step]]
    if kind == 4 and seed % 4 == 0:
        one.extra_layers[7, 2] = {"anomalies": {"has_nan": True, "has_inf": False}}
    loop = kind == 0
    return one, report(one, version, loop=loop), loop


VOCABULARY_ALL = 40


def sharpened(weights: np.ndarray) -> np.ndarray:
    """The same attention with nearly all weight on its largest key."""
    largest = weights == weights.max(axis=-1, keepdims=True)
    return np.where(largest, 0.9999, 0.0001 / (weights.shape[-1] - 1))


def seen(one: Truth, made: dict[str, Any], *, old: bool, loop: bool) -> Trace:
    """The rows that the program saw: averages over the prompt at step 0, and every head."""
    prompt = N + one.two_stacks
    basins = [layer["basin_scores"] for layer in made["prompt_analysis"]["layers"]]
    tokens = [{"step": None, "position": p} for p in range(prompt)]
    layers: dict[int, list[dict[str, Any]]] = {}
    heads: dict[int, list[dict[str, Any]]] = {}
    for step in range(12):
        logp = one.scores(step)
        p = np.exp(logp)
        best = np.sort(p)[::-1]
        token = {"entropy_bits": -(p[p > 0] * logp[p > 0]).sum() / np.log(2), "margin": best[0] - best[1]}
        token |= {"surprisal_bits": -logp[one.tokens[step]] / np.log(2), "top10_mass": best[:10].sum()}
        tokens.append({"step": step, "position": prompt + step, **token})
        position = prompt + step - 1
        broken = {layer for at, layer in one.extra_layers if at == step}
        states = [
            {
                "layer": layer,
                "site": "resid_post",
                "l2_norm": np.linalg.norm(one.states[step][layer + 1], axis=-1).mean(),
                "n_nan": int(layer in broken),
                "n_inf": 0,
            }
            for layer in range(LAYERS)
        ]
        cosine = 1.0 if loop and step > 7 else 0.0
        layers[position] = [
            *states,
            {"layer": 5, "site": "final_norm", "cos_prev_position": cosine, "n_nan": 0, "n_inf": 0},
        ]
        heads[position] = []
        for layer in range(LAYERS):
            weights = one.attention[step][layer] if old else one.attention[step][layer][:, -1:]
            for head, nats in enumerate(head_entropies(weights)):
                row = {"layer": layer, "n_keys": weights.shape[-1], "entropy_bits": nats / np.log(2)}
                row |= {"max_weight": weights[head].max(axis=-1).mean()}
                row["basin_ratio"] = basins[layer][head] if step == 0 else None
                heads[position].append(row)
    return Trace({"finish_reason": "length"}, tokens, layers, heads, LAYERS)


@pytest.fixture(scope="module")
def cases(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, tuple[Truth, dict[str, Any], bool]], pl.DataFrame]:
    folder = tmp_path_factory.mktemp("judged")
    found = {}
    for version, seeds in (("0.5", NEW), ("0.3", OLD)):
        for seed, two_stacks in seeds:
            one = made(seed, version, two_stacks)
            found[one[0].trace_id] = one
    imported(folder / "lake", *written(folder, *(one[1] for one in found.values())))
    lake = tracelake.open(folder / "lake")
    assert lake.verify(level="deep").ok
    return found, lake.sql(
        "SELECT r.*, s.item_id AS trace FROM risk_scores AS r JOIN sequences AS s USING (run_id, sequence_id)"
    )


def verdicts(frame: pl.DataFrame, profile: str) -> dict[str, dict[str, Any]]:
    return {row["trace"]: row for row in frame.filter(pl.col("profile") == profile).iter_rows(named=True)}


@pytest.mark.parametrize(
    ("version", "profile"), [("0.5", "v0.5"), ("0.5", "default"), ("0.5", "llama"), ("0.3", "v0.3")]
)
def test_verdicts_are_what_plain_python_says(
    cases: Any, version: str, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version == "0.3":  # its heads are counted by bits: how severe a collapse is cannot be known
        plain = health_by_hand.collapse
        monkeypatch.setattr(health_by_hand, "collapse", lambda *of: (plain(*of)[0], None))
    reports, frame = cases
    found = verdicts(frame, profile)
    checked = 0
    for trace_id, (one, written_report, loop) in reports.items():
        if not written_report["schema_version"].startswith(version):
            continue
        expected = judge(seen(one, written_report, old=version == "0.3", loop=loop), profile)
        row = found[trace_id]
        for name in COMPARED:
            wanted = pytest.approx(expected[name], abs=1e-5) if isinstance(expected[name], float) else expected[name]
            assert row[name] == wanted, (trace_id, name)
        if version == "0.5":
            assert row["attention_collapse_severity"] == expected["attention_collapse_severity"]
        checked += 1
    assert checked == len(NEW if version == "0.5" else OLD)


def test_flags_agree_with_the_reports_own(cases: Any) -> None:
    """Version 0.5 is judged by the profile of its rules; version 0.3 where its layers do not matter."""
    reports, frame = cases
    for trace_id, (one, made, _) in reports.items():
        flags = made["health_flags"]
        old = made["schema_version"] == "0.3.0"
        row = verdicts(frame, "v0.3" if old else "v0.5")[trace_id]
        assert row["has_nan"] == flags["nan_detected"] and row["has_inf"] == flags["inf_detected"]
        assert row["high_entropy_steps"] == flags["high_entropy_steps"]
        assert row["repetition_loop"] == flags["repetition_loop_detected"]
        # The program counts heads with one key as collapsed; the views do not.
        if not one.two_stacks:
            assert row["attention_collapse"] == flags["attention_collapse_detected"]
        if not old and not flags["nan_detected"]:
            assert row["mid_layer_anomaly"] == flags["mid_layer_anomaly_detected"]


def test_every_verdict_occurs_and_not_everywhere(cases: Any) -> None:
    _, frame = cases
    for profile in ("v0.3", "v0.5"):
        rows = frame.filter(pl.col("profile") == profile)
        for name in ("repetition_loop", "mid_layer_anomaly", "attention_collapse", "has_nan"):
            assert rows[name].any() and not rows[name].drop_nulls().all(), (profile, name)
        assert rows["high_entropy_steps"].max() > 0 and rows["high_entropy_steps"].min() == 0


def test_a_rule_that_the_report_did_not_count_by_is_null_with_a_reason(cases: Any) -> None:
    reports, frame = cases
    for trace_id, row in verdicts(frame, "default").items():
        old = reports[trace_id][1]["schema_version"] == "0.3.0"
        assert (row["attention_collapse"] is None) == old
        assert ("judge by the profile v0.3" in row["reason"]) == old
        if old:
            assert row["attention_collapse_any"] is not None
            assert row["risk_v05"] is None or row["has_nan"]
    # The other way round the smallest entropy tells: some head is below 0.1 nats, or none.
    for trace_id, row in verdicts(frame, "v0.3").items():
        one, made, _ = reports[trace_id]
        if made["schema_version"] == "0.5.0":
            nats = [head_entropies(w[:, -1:]).min() for step in one.attention for w in step if w.shape[-1] > 1]
            assert row["attention_collapse"] == (min(nats) < 0.1)


def test_reasons_say_what_is_the_reports_own_and_which_distribution(cases: Any) -> None:
    reports, frame = cases
    for trace_id, row in verdicts(frame, "v0.5").items():
        assert "repetition is the report's own verdict" in row["reason"]
        assert ("of the distribution sampled from" in row["reason"]) != reports[trace_id][0].two_stacks


def test_layers_are_blamed_by_the_reports_counts(cases: Any, tmp_path: Path) -> None:
    one = truth(300, sharp=14.0)
    one.extra_layers[7, 4] = {"anomalies": {"has_nan": True, "has_inf": False}}
    imported(tmp_path / "lake", *written(tmp_path, report(one, "0.5")))
    found = tracelake.open(tmp_path / "lake").sql("SELECT * FROM layer_verdicts WHERE profile = 'v0.5' ORDER BY layer")
    assert found.height == LAYERS
    for layer, row in enumerate(found.iter_rows(named=True)):
        keys = [N + step for step in range(12)]
        shares = [head_entropies(one.attention[s][layer][:, -1:]).min() / np.log(k) for s, k in enumerate(keys)]
        assert row["collapsed_steps"] == pytest.approx(np.mean([share < 0.03 for share in shares]))
        norms = [np.linalg.norm(one.states[step][layer + 1], axis=-1).mean() for step in range(1, 12)]
        if layer < LAYERS - 1:
            assert row["mean_norm"] == pytest.approx(np.mean(norms), rel=1e-5)
        assert ("nan_or_inf" in row["reasons"]) == (layer == 4)
