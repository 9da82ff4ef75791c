"""Rules that end a sequence: read, applied where a plain search over the unstopped run says, and deterministic."""

import numpy as np
import polars as pl
import pytest

import tracelake
from tracelake.collect.decoding.sampling.stop_rule import StopRule, StopWatch
from tracelake.lake import Lake
from tracelake.lake.errors import UsageError

SETTINGS = {
    "dataset": "tinymath:test",
    "limit": 10,
    "samples": 2,
    "max_new_tokens": 40,
    "seed": 3,
    "device": "cpu",
    "keep": ["tokens"],
}


def steps(lake: Lake) -> dict[int, pl.DataFrame]:
    found = lake.sql("select * from token_steps where not is_prompt order by sequence_id, position")
    return {key[0]: rows for key, rows in found.group_by("sequence_id", maintain_order=True)}


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory):
    lake = tmp_path_factory.mktemp("unstopped")
    tracelake.collect(lake, **SETTINGS)
    return steps(tracelake.open(lake))


@pytest.mark.parametrize(
    ("rule", "holds", "n_steps"),
    [
        ("entropy_bits > 0.8 for 2", lambda r: r["entropy_bits"] > 0.8, 2),
        ("surprisal_bits >= 2.5", lambda r: r["surprisal_bits"] >= 2.5, 1),
        ("margin < 0.7 and rank == 0 for 2 steps", lambda r: (r["margin"] < 0.7) & (r["rank"] == 0), 2),
        ("sampling_logprob < -1.5", lambda r: r["sampling_logprob"] < -1.5, 1),
    ],
)
def test_sequences_end_where_a_plain_search_says(tmp_path, unstopped, rule, holds, n_steps):
    run_id = tracelake.collect(tmp_path, **SETTINGS, stop_when=rule).run_id
    lake = tracelake.open(tmp_path)
    reasons = dict(lake.sql("select sequence_id, finish_reason from sequences").rows())
    stopped = steps(lake)
    n_stopped = 0
    for sequence_id, rows in unstopped.items():
        flags = holds(rows).to_numpy().astype(bool)
        ends = [i for i in range(n_steps - 1, len(flags)) if flags[i - n_steps + 1 : i + 1].all()]
        expected = rows["token_id"].to_list()[: ends[0] + 1] if ends else rows["token_id"].to_list()
        assert stopped[sequence_id]["token_id"].to_list() == expected
        if ends and ends[0] < len(rows) - 1:
            assert reasons[sequence_id] == "stopped"
            n_stopped += 1
        else:
            assert reasons[sequence_id] != "stopped" or ends[0] == len(rows) - 1
    assert 0 < n_stopped < len(unstopped), f"{run_id}: the rule must end some sequences, not all"


def test_a_break_starts_the_count_again():
    watch = StopWatch((StopRule.parse("entropy_bits > 1 for 3"),), 2)
    rows = np.arange(2)
    values = [[2.0, 2.0], [2.0, 0.5], [2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]
    ended = [watch.after_step(rows, {"entropy_bits": np.array(pair)}).tolist() for pair in values]
    assert ended == [[False, False], [False, False], [True, False], [True, False], [True, True]]


def test_rows_that_left_do_not_shift_the_others():
    watch = StopWatch((StopRule.parse("rank >= 5 for 2"),), 3)
    watch.after_step(np.arange(3), {"rank": np.array([9, 0, 9])})
    assert watch.after_step(np.array([1, 2]), {"rank": np.array([9, 9])}).tolist() == [False, True]


def test_what_is_not_finite_makes_no_condition_true():
    watch = StopWatch((StopRule.parse("entropy_bits != 3"),), 2)
    assert watch.after_step(np.arange(2), {"entropy_bits": np.array([np.nan, 1.0])}).tolist() == [False, True]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "entropy_bits",
        "entropy_bits > high",
        "entropi_bits > 3",
        "entropy_bits > 3 for 0",
        "entropy_bits > 3 or rank > 2",
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError, match="--stop-when"):
        StopRule.parse(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop_when": "entropy_bits > 3", "keep": ["layers"]}, "add tokens to keep"),
        ({"stop_when": "sampling_logprob < -1"}, "greedy"),
    ],
)
def test_rules_that_nothing_can_answer_are_refused(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        tracelake.collect(tmp_path / "lake", prompt="1 + 1", **settings)
    assert not (tmp_path / "lake").exists()
