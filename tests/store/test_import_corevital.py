"""CoreVital reports in the tables: every mapped value against the states, attention and logits it was made from."""

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from corevital_reports import (
    HEADS,
    LAYERS,
    PROMPT,
    PROMPT_IDS,
    Truth,
    head_entropies,
    log_softmax,
    report,
    truth,
    written,
)
from imported_reports import imported

import tracelake
from tracelake import OpenLake

N = len(PROMPT_IDS)
CASES: dict[str, tuple[dict[str, Any], str, bool | None]] = {
    "v0.2": ({}, "0.2", None),
    "v0.3": ({}, "0.3", None),
    "v0.4 before the rewrite": ({}, "0.4", False),
    "v0.4 after it": ({}, "0.4", True),
    "v0.5": ({}, "0.5", None),
    "v0.5 greedy": ({"sample": False}, "0.5", None),
    "v0.3 encoder-decoder": ({"two_stacks": True}, "0.3", None),
    "v0.5 encoder-decoder": ({"two_stacks": True}, "0.5", None),
}
OLD = ("v0.2", "v0.3", "v0.4 before the rewrite")
Frame = pl.DataFrame


@pytest.fixture(scope="module")
def truths() -> dict[str, Truth]:
    return {name: truth(seed, **options) for seed, (name, (options, _, _)) in enumerate(CASES.items())}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, truths: dict[str, Truth]) -> Iterator[OpenLake]:
    folder = tmp_path_factory.mktemp("corevital")
    made = [report(truths[name], version, rewritten=new) for name, (_, version, new) in CASES.items()]
    imported(folder / "lake", *written(folder, *made))
    yield tracelake.open(folder / "lake")


@functools.cache
def whole(path: Path, table: str) -> Frame:
    """A table with the trace of each row; asked once per lake, since every question binds all views."""
    query = (
        f"SELECT t.*, s.item_id AS trace FROM {table} AS t JOIN sequences AS s USING (run_id, sequence_id) ORDER BY ALL"
    )
    return tracelake.open(path).sql(query)


def rows(lake: OpenLake, table: str, one: Truth, where: str = "true") -> Frame:
    """Rows of one report's sequence."""
    return whole(lake.path, table).filter(pl.col("trace") == one.trace_id).sql(f"SELECT * FROM self WHERE {where}")


def metric(lake: OpenLake, one: Truth, name: str) -> dict[tuple[int | None, int | None], float | None]:
    """Values of one imported metric by (step, layer)."""
    found = rows(lake, "imported_metrics", one, f"name = '{name}'")
    return {(r["step"], r["layer"]): r["value"] for r in found.iter_rows(named=True)}


def each(*names: str) -> Any:
    return pytest.mark.parametrize("name", names or tuple(CASES))


def first(one: Truth) -> int:
    """Position of the first generated token."""
    return N + one.two_stacks


# -- sequences and runs ------------------------------------------------------------------------------------------------


def test_one_run_per_model_and_one_sequence_per_report(lake: OpenLake) -> None:
    runs = lake.sql("SELECT * FROM runs ORDER BY n_sequences")
    assert runs["n_sequences"].to_list() == [2, 6]
    assert runs["is_encoder_decoder"].to_list() == [True, False]
    assert set(runs["kind"]) == {"import"} and set(runs["status"]) == {"complete"}
    row = runs.row(1, named=True)
    assert (row["model"], row["n_layers"], row["n_heads"], row["d_model"]) == ("example/tiny", LAYERS, HEADS, 8)
    assert (row["architecture"], row["dtype"], row["quantization"], row["seed"]) == (
        "LlamaForCausalLM",
        "float32",
        None,
        42,
    )


def test_the_lake_verifies(lake: OpenLake) -> None:
    found = lake.verify(level="deep")
    assert found.ok and found.rows > 1000, found.problems


@each()
def test_sequence(lake: OpenLake, truths: dict[str, Truth], name: str) -> None:
    one = truths[name]
    row = rows(lake, "sequences", one).row(0, named=True)
    assert row["prompt"] == PROMPT
    assert row["prompt_id"] == hashlib.sha256(PROMPT.encode()).hexdigest()[:16]
    assert (row["n_prompt_tokens"], row["n_generated_tokens"]) == (first(one), 12)
    assert row["finish_reason"] == "length"
    sampled = one.generation["do_sample"]
    assert row["origin"] == ("sampled" if sampled else "greedy")
    assert row["temperature"] == (0.8 if sampled else 0)
    assert row["top_k"] == (12 if sampled else None)
    about = json.loads(row["metadata"])
    assert about["trace_id"] == one.trace_id and about["schema_version"] == f"{CASES[name][1]}.0"
    assert about["first_layer_entry"] == ("embeddings" if name in OLD else "block 0")
    assert about["distribution"] == ("raw" if one.two_stacks or not sampled else "processed")


# -- tokens ------------------------------------------------------------------------------------------------------------


@each()
def test_tokens(lake: OpenLake, truths: dict[str, Truth], name: str) -> None:
    one = truths[name]
    found = rows(lake, "token_steps", one)
    assert found["position"].to_list() == list(range(first(one) + 12))
    start = [None] if one.two_stacks else []
    assert found["token_id"].to_list() == [*PROMPT_IDS, *start, *one.tokens]
    assert found["step"].to_list() == [None] * first(one) + list(range(12))
    assert found["stack"].to_list() == ["encoder" if one.two_stacks else "decoder"] * N + ["decoder"] * (
        len(start) + 12
    )
    completion = rows(lake, "sequences", one)["completion"].item()
    ends = found["char_end"].to_list()[first(one) :]
    texts = [completion[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert texts == found["token"].to_list()[first(one) :] and ends[-1] == len(completion)


@each()
def test_distributions_go_to_the_columns_of_what_was_measured(
    lake: OpenLake, truths: dict[str, Truth], name: str
) -> None:
    one = truths[name]
    raw = one.two_stacks or not one.generation["do_sample"]
    found = rows(lake, "token_steps", one, "step IS NOT NULL")
    for step, row in enumerate(found.iter_rows(named=True)):
        logp = log_softmax(one.logits[step]) if raw else log_softmax(one.processed(step))
        p = np.exp(logp)
        entropy = -(p[p > 0] * logp[p > 0]).sum() / np.log(2)
        best = np.sort(p)[::-1]
        here, other = ("", "sampling_") if raw else ("sampling_", "")
        assert row[f"{here}entropy_bits"] == pytest.approx(entropy, rel=1e-6)
        assert row[f"{other}entropy_bits"] is None and row[f"{other}logprob"] is None
        if name == "v0.2":
            assert row[f"{here}logprob"] is None
        else:
            assert row[f"{here}logprob"] == pytest.approx(logp[one.tokens[step]], rel=1e-5, abs=1e-6)
        values = {"margin": best[0] - best[1], "top10_mass": best[:10].sum()}
        for column, value in values.items():
            if name == "v0.2" and column == "top10_mass":
                continue
            stored = metric(lake, one, column).get((step, None))
            assert (row[column] if raw else stored) == pytest.approx(value, rel=1e-5)
            assert (stored if raw else row[column]) is None
        assert row["topk_ids"] is None and row["rank"] is None


@each("v0.3", "v0.5")
def test_top_tokens(lake: OpenLake, truths: dict[str, Truth], name: str) -> None:
    one = truths[name]
    p = np.exp(one.scores(3))
    for place, token in enumerate(np.argsort(-p)[:5], start=1):
        assert metric(lake, one, f"topk_id_{place}")[3, None] == token
        assert metric(lake, one, f"topk_prob_{place}")[3, None] == pytest.approx(p[token], abs=5e-4)


@each("v0.3", "v0.5")
def test_surprisal_of_the_prompt_is_raw(lake: OpenLake, truths: dict[str, Truth], name: str) -> None:
    one = truths[name]
    found = rows(lake, "token_steps", one, "is_prompt")
    expected = -one.prompt_logprobs[np.arange(N - 1), PROMPT_IDS[1:]]
    assert found["surprisal_bits"][0] is None
    assert found["surprisal_bits"][1:].to_list() == pytest.approx(expected / np.log(2), abs=1e-4)
    assert found["logprob"][1:].to_list() == pytest.approx(-expected, abs=1e-4)


# -- states and attention ----------------------------------------------------------------------------------------------


def expected_site(one: Truth, name: str, entry: int) -> tuple[str, int]:
    """Where the hidden state of a report's entry belongs: entry 0 of the old program is the embeddings."""
    if name in OLD:
        return ("resid_pre", 0) if entry == 0 else ("resid_post", entry - 1)
    return ("final_norm", LAYERS - 1) if entry == LAYERS - 1 else ("resid_post", entry)


@each()
def test_states_lie_before_the_token_they_lead_to(lake: OpenLake, truths: dict[str, Truth], name: str) -> None:
    one = truths[name]
    offset = 0 if name in OLD else 1
    found = rows(lake, "layer_summaries", one)
    by_place = {(r["position"], r["site"], r["layer"]): r for r in found.iter_rows(named=True)}
    averaged = [] if one.two_stacks else [0]
    for step in range(12):
        for entry in range(LAYERS):
            site, layer = expected_site(one, name, entry)
            state = one.states[step][entry + offset]
            numbers = {
                "l2_norm": np.linalg.norm(state, axis=-1).mean(),
                "mean": state.mean(),
                "std": state.std(ddof=1),
                "max_abs": np.abs(state).max(),
            }
            row = by_place.get((first(one) + step - 1, site, layer), {})
            for column, value in numbers.items():
                if step in averaged:
                    assert row.get(column) is None
                    assert metric(lake, one, f"{site}.{column}")[0, layer] == pytest.approx(value)
                else:
                    assert row[column] == pytest.approx(value, rel=1e-5)
            if step not in averaged and name != "v0.2":
                assert (row["n_nan"], row["n_inf"]) == (0, 0)


@each()
def test_attention_in_bits_on_the_row_of_its_own_block(lake: OpenLake, truths: dict[str, Truth], name: str) -> None:
    one = truths[name]
    found = rows(lake, "layer_summaries", one, "site = 'resid_post'")
    by_place = {(r["position"], r["layer"]): r for r in found.iter_rows(named=True)}
    for step in range(12):
        for layer in range(LAYERS):
            weights = one.attention[step][layer]
            whole_prompt = step == 0 and name in OLD
            if not whole_prompt:
                weights = weights[:, -1:]
            entropy, largest = head_entropies(weights) / np.log(2), weights.max(axis=-1)
            row = by_place.get((first(one) + step - 1, layer), {})
            numbers = {"attn_entropy_bits_mean": entropy.mean(), "attn_entropy_bits_min": entropy.min()}
            if name != "v0.2":
                numbers |= {"attn_entropy_bits_max": entropy.max(), "attn_max_weight_min": largest.min()}
            numbers["attn_max_weight_max"] = largest.max()
            for column, value in numbers.items():
                if whole_prompt:
                    assert row.get(column) is None
                    assert metric(lake, one, f"resid_post.{column}")[0, layer] == pytest.approx(value, abs=1e-9)
                else:
                    assert row[column] == pytest.approx(value, rel=1e-5, abs=1e-6)


@each("v0.3", "v0.4 before the rewrite", "v0.4 after it", "v0.5", "v0.5 encoder-decoder")
def test_head_counts_are_kept_under_the_name_of_their_rule(lake: OpenLake, truths: dict[str, Truth], name: str) -> None:
    one = truths[name]
    rule, other = ("bits", "normalised") if name in OLD else ("normalised", "bits")
    counts, focused = metric(lake, one, f"collapsed_heads_{rule}"), metric(lake, one, "focused_heads")
    assert not metric(lake, one, f"collapsed_heads_{other}")
    for step in range(12):
        for layer in range(LAYERS):
            weights = one.attention[step][layer] if name in OLD else one.attention[step][layer][:, -1:]
            nats, keys = head_entropies(weights), weights.shape[-1]
            if keys < 2:
                assert counts[step, layer] is None and focused[step, layer] is None
                continue
            expected = (nats < 0.1) if rule == "bits" else (nats / np.log(keys) < 0.03)
            assert counts[step, layer] == expected.sum()
            assert focused[step, layer] == (weights.max(axis=-1).mean(axis=-1) > 0.9).sum()


@each("v0.3", "v0.5", "v0.5 encoder-decoder")
def test_attention_over_the_prompt(lake: OpenLake, truths: dict[str, Truth], name: str) -> None:
    one = truths[name]
    stack = "encoder" if one.two_stacks else "decoder"
    edges = rows(lake, "attention_edges", one)
    weights = np.array(one.encoder_attention or one.attention[0])
    assert edges.height == (weights > 0.2).sum() and set(edges["stack"]) == {stack}
    found = edges.select("layer", "head", "position", "key").to_numpy()
    assert edges["weight"].to_numpy() == pytest.approx(weights[tuple(found.T)], abs=1e-4)
    heads = rows(lake, "head_summaries", one)
    assert set(heads["position"]) == {N - 1} and heads.height == LAYERS * HEADS and set(heads["stack"]) == {stack}
    middle = weights[..., N // 3 : 2 * N // 3].sum(axis=-1).mean(axis=-1)
    assert heads["basin_ratio"].to_numpy() == pytest.approx((middle / (1 - middle)).reshape(-1), abs=1e-4)
    if stack == "decoder":  # uniform causal attention over five tokens: 0.7045
        ratio = heads["basin_ratio"] / heads["basin_ratio_to_uniform"]
        assert ratio.to_list() == pytest.approx([0.7045] * heads.height, abs=1e-4)
    else:
        assert heads["basin_ratio_to_uniform"].null_count() == heads.height
    assert heads["n_keys"].null_count() == heads.height
    transformations = metric(lake, one, "layer_transformation")
    assert transformations == {(None, layer): pytest.approx(0.1 * layer) for layer in range(1, LAYERS)}


@each("v0.3 encoder-decoder", "v0.5 encoder-decoder")
def test_encoder_and_cross_attention(lake: OpenLake, truths: dict[str, Truth], name: str) -> None:
    one = truths[name]
    assert one.cross is not None
    norms = {(None, i): np.linalg.norm(s, axis=-1).mean() for i, s in enumerate(one.encoder)}
    assert metric(lake, one, "encoder.l2_norm") == pytest.approx(norms)
    entropy = metric(lake, one, "cross.attn_entropy_bits_mean")
    for step in range(12):
        for layer in range(LAYERS):
            expected = head_entropies(one.cross[step][layer]).mean() / np.log(2)
            assert entropy[step, layer] == pytest.approx(expected)


# -- what is not known -------------------------------------------------------------------------------------------------


def test_what_a_report_cannot_say_has_a_reason(lake: OpenLake, truths: dict[str, Truth]) -> None:
    one = truths["v0.3"]
    nulls = rows(lake, "imported_metrics", one, "value IS NULL")
    reasons = dict(zip(nulls["name"], nulls["reason"], strict=True))
    assert "after temperature" in reasons["token_steps.entropy_bits"]
    assert "average over the whole prompt" in reasons["layer_summaries.l2_norm of step 0"]
    assert "no output of the last block" in reasons[f"layer_summaries.l2_norm of layer {LAYERS - 1}"]
    assert None not in nulls["reason"]
    everything = lake.sql("SELECT count(*) FILTER (value IS NULL AND reason IS NULL) FROM imported_metrics")
    assert everything.item() == 0


def test_version_0_2_has_no_verdict_on_repetition_and_so_no_risk(lake: OpenLake, truths: dict[str, Truth]) -> None:
    one = truths["v0.2"]
    row = rows(lake, "risk_scores", one, "profile = 'v0.3'").row(0, named=True)
    assert row["repetition_loop"] is None and row["risk_v05"] is None
    assert row["reason"].startswith("the source has no verdict on repetition")
    nats = min(head_entropies(w if step == 0 else w[:, -1:]).min() for step, a in enumerate(one.attention) for w in a)
    assert row["attention_collapse"] == (nats < 0.1)
    assert row["mid_layer_anomaly"] is False and len(row["entropies"]) == 12


def test_nan_infinity_and_missing_fields(tmp_path: Path) -> None:
    one = truth(20)
    made = report(one, "0.3")
    step = made["timeline"][4]
    step["logits_summary"] |= {"entropy": float("nan"), "surprisal": float("inf")}
    step["layers"][2]["hidden_summary"] = {"l2_norm_mean": float("inf"), "mean": None}
    step["layers"][3] = {"layer_index": 3, "anomalies": {"has_nan": True, "has_inf": False}}
    del made["health_flags"], made["summary"]
    made["prompt_analysis"]["layers"][1]["heads"][2]["weights"][0] = float("nan")
    made["prompt_analysis"]["layers"][1]["basin_scores"][2] = float("nan")
    imported(tmp_path / "lake", *written(tmp_path, made))
    lake = tracelake.open(tmp_path / "lake")
    assert lake.verify(level="deep").ok
    row = rows(lake, "token_steps", one, "step = 4").row(0, named=True)
    assert row["sampling_entropy_bits"] is None and row["sampling_logprob"] is None
    reasons = rows(lake, "imported_metrics", one, "step = 4 AND value IS NULL")
    assert dict(zip(reasons["name"], reasons["reason"], strict=True)) == {
        "entropy_bits": "the source has NaN",
        "surprisal_bits": "the source has infinity",
        "resid_post.l2_norm": "the source has infinity",
    }
    assert metric(lake, one, "has_nan") == {(4, 3): 1.0}
    assert metric(lake, one, "edge_weights_2") == metric(lake, one, "basin_ratio_2") == {(None, 1): None}
    assert rows(lake, "attention_edges", one)["weight"].null_count() == 1
    assert not rows(lake, "attention_edges", one)["weight"].is_nan().any()
    found = rows(lake, "layer_summaries", one, f"position = {N + 3} AND site = 'resid_post'").sort("layer")
    states = list(
        zip(found["layer"], found["l2_norm"].is_null(), found["attn_entropy_bits_mean"].is_null(), strict=True)
    )
    # Entry 2 has an infinite norm, entry 3 neither the state of block 2 nor the attention of block 3; the last block
    # has no state in any entry.
    assert states == [
        (0, False, False), (1, True, False), (2, True, False), (3, False, True), (4, False, False), (5, True, False),
    ]  # fmt: skip
    assert found["n_nan"].to_list() == [0, 0, None, 0, 0, None]
    assert found["mean"][1] is None


def test_summary_capture_has_no_layers(tmp_path: Path) -> None:
    one = truth(21)
    made = report(one, "0.5")
    for step in made["timeline"]:
        step["layers"] = []
    imported(tmp_path / "lake", *written(tmp_path, made))
    lake = tracelake.open(tmp_path / "lake")
    assert rows(lake, "layer_summaries", one).height == 0
    assert rows(lake, "token_steps", one)["sampling_entropy_bits"].count() == 12
    verdict = rows(lake, "health_verdicts", one, "profile = 'v0.5'").row(0, named=True)
    flags = made["health_flags"]
    assert verdict["attention_collapse"] == flags["attention_collapse_detected"]
    assert verdict["mid_layer_anomaly"] == flags["mid_layer_anomaly_detected"]
    for name in ("repetition", "attention collapse", "mid-layer anomaly"):
        assert f"{name} is the report's own verdict" in verdict["reason"]


def test_neutral_sampling_is_raw_and_sampled_at_once(tmp_path: Path) -> None:
    one = truth(22)
    one.generation |= {"temperature": 1.0, "top_k": 0}
    imported(tmp_path / "lake", *written(tmp_path, report(one, "0.5")))
    found = rows(tracelake.open(tmp_path / "lake"), "token_steps", one, "step IS NOT NULL")
    assert found["entropy_bits"].to_list() == found["sampling_entropy_bits"].to_list()
    assert found["entropy_bits"].null_count() == 0


@pytest.mark.parametrize("penalty", [{"repetition_penalty": 1.2}, {"no_repeat_ngram_size": 3}, {"num_beams": 4}])
def test_a_penalty_makes_greedy_numbers_processed(tmp_path: Path, penalty: dict[str, Any]) -> None:
    one = truth(23, sample=False)
    one.generation |= penalty
    imported(tmp_path / "lake", *written(tmp_path, report(one, "0.5")))
    found = rows(tracelake.open(tmp_path / "lake"), "token_steps", one, "step IS NOT NULL")
    assert found["entropy_bits"].null_count() == 12 and found["sampling_entropy_bits"].null_count() == 0


def test_the_old_loop_masked_raw_logits_in_place_at_temperature_one(tmp_path: Path) -> None:
    old, new = truth(24, two_stacks=True), truth(25, two_stacks=True)
    for one in (old, new):
        one.generation |= {"temperature": 1.0, "top_k": 12}
    imported(tmp_path / "lake", *written(tmp_path, report(old, "0.3"), report(new, "0.5")))
    lake = tracelake.open(tmp_path / "lake")
    assert rows(lake, "token_steps", old)["entropy_bits"].count() == 0
    assert rows(lake, "token_steps", new)["entropy_bits"].count() == 12


def test_first_layer_can_be_said(tmp_path: Path) -> None:
    one = truth(26)
    imported(tmp_path / "lake", *written(tmp_path, report(one, "0.3")), first_layer="block")
    found = rows(tracelake.open(tmp_path / "lake"), "layer_summaries", one, f"position = {N} AND l2_norm IS NOT NULL")
    assert sorted(zip(found["site"], found["layer"], strict=True))[0] == ("final_norm", LAYERS - 1)


def test_weights_per_head(tmp_path: Path) -> None:
    one = truth(27)
    made = report(one, "0.5")
    for step, entry in enumerate(made["timeline"]):
        for layer, found in enumerate(entry["layers"]):
            weights = one.attention[step][layer][:, -1].max(axis=-1)
            found["attention_summary"]["max_weight_per_head"] = [float(w) for w in weights]
    imported(tmp_path / "lake", *written(tmp_path, made))
    lake = tracelake.open(tmp_path / "lake")
    heads = rows(lake, "head_summaries", one, f"position = {N + 4} AND layer = 2")
    assert heads["max_weight"].to_list() == pytest.approx(one.attention[5][2][:, -1].max(axis=-1).tolist())
    row = rows(lake, "layer_summaries", one, f"position = {N + 4} AND layer = 2 AND site = 'resid_post'")
    assert row["attn_max_weight_mean"].item() == pytest.approx(heads["max_weight"].mean())
    verdict = rows(lake, "health_verdicts", one, "profile = 'v0.5'").row(0, named=True)
    assert verdict["attention_collapse"] == made["health_flags"]["attention_collapse_detected"]
