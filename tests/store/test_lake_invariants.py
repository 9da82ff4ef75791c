"""`lake verify --deep` finds numbers of one row that cannot belong together, and nothing in what is sound."""

import math

import pyarrow as pa
import pytest

import tracelake
from tracelake.lake import TABLES, Lake
from tracelake.lake.upkeep.invariants import INVARIANTS, broken_invariants

KEY = {"run_id": "r01", "sequence_id": 3, "position": 7}
LN2 = math.log(2)
SOUND = {
    "token_steps": {
        "logprob": math.log(0.5), "surprisal_bits": 1.0, "entropy_bits": 1.5, "rank": 0, "top1_prob": 0.5,
        "margin": 0.2, "top10_mass": 0.9, "sampling_entropy_bits": 1.0,
    },
    "layer_summaries": {
        "l2_norm": 4.0, "max_abs": 3.0, "cos_prev_layer": 0.5, "cos_prev_position": -0.5,
        "attn_entropy_bits_mean": 1.0, "attn_entropy_bits_min": 0.5, "attn_entropy_bits_max": 2.0,
        "attn_max_weight_mean": 0.5, "attn_max_weight_min": 0.1, "attn_max_weight_max": 0.96,
    },
    "head_summaries": {"entropy_bits": 1.9, "max_weight": 0.6, "basin_ratio": 0.3, "n_keys": 4},
    "attention_edges": {"weight": 0.4},
}  # fmt: skip
BROKEN = [
    ("token_steps", {"entropy_bits": -0.1}, "entropy_bits >= 0"),
    ("token_steps", {"surprisal_bits": -1.0, "logprob": LN2}, "surprisal_bits >= 0"),
    ("token_steps", {"surprisal_bits": 1.001}, "surprisal_bits = -logprob / ln 2"),
    ("token_steps", {"sampling_entropy_bits": -1.0}, "sampling_entropy_bits >= 0"),
    ("token_steps", {"top1_prob": 1.1, "top10_mass": 1.1}, "0 <= top1_prob <= 1"),
    ("token_steps", {"margin": -0.1}, "0 <= margin <= 1"),
    ("token_steps", {"margin": 0.6}, "margin <= top1_prob"),
    ("token_steps", {"top10_mass": 0.4}, "top1_prob <= top10_mass"),
    ("token_steps", {"top10_mass": 1.2}, "0 <= top10_mass <= 1"),
    ("token_steps", {"rank": 1, "top1_prob": 0.4, "top10_mass": 0.95}, "rank = 0 if and only if"),
    ("token_steps", {"rank": 0, "top1_prob": 0.8}, "rank = 0 if and only if"),
    ("layer_summaries", {"l2_norm": 2.9}, "max_abs <= l2_norm"),
    ("layer_summaries", {"l2_norm": -1.0, "max_abs": -2.0}, "l2_norm >= 0"),
    ("layer_summaries", {"max_abs": -1.0}, "max_abs >= 0"),
    ("layer_summaries", {"cos_prev_layer": 1.01}, "-1 <= cos_prev_layer <= 1"),
    ("layer_summaries", {"cos_prev_position": -1.01}, "-1 <= cos_prev_position <= 1"),
    ("layer_summaries", {"attn_entropy_bits_min": 1.2}, "attn_entropy_bits_min <= attn_entropy_bits_mean"),
    ("layer_summaries", {"attn_entropy_bits_mean": 2.5}, "attn_entropy_bits_mean <= attn_entropy_bits_max"),
    ("layer_summaries", {"attn_entropy_bits_min": -0.5}, "attn_entropy_bits_min >= 0"),
    ("layer_summaries", {"attn_max_weight_min": 0.7}, "attn_max_weight_min <= attn_max_weight_mean"),
    ("layer_summaries", {"attn_max_weight_mean": 0.99}, "attn_max_weight_mean <= attn_max_weight_max"),
    ("layer_summaries", {"attn_max_weight_max": 1.2}, "0 <= attn_max_weight_max <= 1"),
    ("layer_summaries", {"attn_entropy_bits_min": 1.5, "attn_entropy_bits_mean": 1.6}, "implies attn_entropy_bits_min"),
    ("head_summaries", {"entropy_bits": 2.1}, "entropy_bits <= log2(n_keys)"),
    ("head_summaries", {"entropy_bits": -0.2}, "entropy_bits >= 0"),
    ("head_summaries", {"max_weight": 1.1}, "0 <= max_weight <= 1"),
    ("head_summaries", {"basin_ratio": -1.0}, "basin_ratio >= 0"),
    ("attention_edges", {"weight": 1.5}, "0 <= weight <= 1"),
]


def rows(table: str, *changes: dict) -> pa.Table:
    types = {column.name: column.type for column in TABLES[table].columns}
    found = [{**KEY, **SOUND[table], **change} for change in changes]
    return pa.table({name: pa.array([row[name] for row in found], types[name]) for name in found[0]})


@pytest.mark.parametrize(("table", "change", "sentence"), BROKEN)
def test_each_broken_rule_is_named(table, change, sentence):
    messages = list(broken_invariants(table, rows(table, {}, change, {})))
    hits = [message for message in messages if sentence in message]
    assert len(hits) == 1 and "1 rows break" in hits[0] and "sequence_id 3, position 7" in hits[0]


def test_every_rule_is_tested():
    tested = {(table, rule.sentence) for table, rules in INVARIANTS.items() for rule in rules
              if any(t == table and sentence in rule.sentence for t, _, sentence in BROKEN)}  # fmt: skip
    assert tested == {(table, rule.sentence) for table, rules in INVARIANTS.items() for rule in rules}


@pytest.mark.parametrize("table", SOUND)
def test_sound_rows_nulls_and_infinities_break_nothing(table):
    nothing = {name: None for name in SOUND[table]}
    infinite = {"l2_norm": math.inf, "max_abs": math.inf, "cos_prev_layer": None} if table == "layer_summaries" else {}
    assert list(broken_invariants(table, rows(table, {}, nothing, infinite))) == []


def test_a_real_run_breaks_nothing_and_a_false_number_is_found(tmp_path):
    """The false number is committed through the writer, so checksums and types are right: only its meaning is not."""
    settings = {"dataset": "tinymath:test", "limit": 4, "max_new_tokens": 16, "device": "cpu", "temperature": 1.3}
    tracelake.collect(tmp_path, **settings, keep=["tokens", "layers", "heads", "edges"])
    lake = Lake.open(tmp_path)
    assert lake.verify("deep").ok
    with lake.start_run("false01", {"kind": "generate"}) as run, run.segment(0, (0, 1)) as segment:
        segment.append("sequences", {"sequence_id": [0], "prompt": ["x"]})
        segment.append(
            "token_steps",
            {
                "sequence_id": [0, 0], "position": [0, 1], "stack": "decoder", "is_prompt": True, "is_forced": False,
                "token_id": [1, 2], "token": ["a", "b"], "margin": [None, 0.9], "top1_prob": [None, 0.5],
            },
        )  # fmt: skip
    assert lake.verify("full").ok
    problems = lake.verify("deep").problems
    assert [p.run_id for p in problems] == ["false01"]
    assert "margin <= top1_prob" in problems[0].message and "position 1" in problems[0].message
