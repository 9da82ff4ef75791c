"""Step records of token-step fingerprinting: in, out again, and compared number by number."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from imported_steps import Record, exported, imported, saved
from lake_command import files, lake_command

import tracelake
from tracelake.lake.errors import UsageError
from tracelake.lake.exchange.tsif.imports import TsifSettings, check_records

PROMPTS = {"riddle": ("reasoning", "Who has Äpfel?"), "plan": ("creative", "A plan: ")}
WORDS = [" To", " determine", " this", ",", " 1", "\n\n", " é", "🙂"]


def prompt_records(rng: np.random.Generator, run: str, prompt: str, *, steps: int = 9) -> list[Record]:
    """The records of one prompt, as the program writes them: float32 as Python floats, NaN at the first step."""
    bucket, text = PROMPTS[prompt]
    records, grown = [], text
    for t in range(1, steps + 1):
        token = WORDS[int(rng.integers(len(WORDS)))]
        grown += token
        # Nucleus sampling leaves one token in many steps: a log-probability of exactly 0.
        logprob = 0.0 if rng.random() < 0.4 else float(np.float32(-rng.gamma(2)))
        records.append(
            {
                "type": "phase5_step",
                "run_id": run,
                "model_name": f"example/{run}",
                "prompt_id": prompt,
                "prompt_text": text,
                "bucket": bucket,
                "t": t,
                "token": token,
                "token_id": 100 + WORDS.index(token),
                "logprob": logprob,
                "surprisal": -logprob,
                "cos_to_prev": math.nan if t == 1 else float(np.float32(rng.uniform(0.99, 1))),
                "cos_to_prompt": float(np.float32(rng.uniform(0.9, 1))),
                "cum_text": grown,
            }
        )
    return records


def all_records(seed: int = 0) -> list[Record]:
    """Two runs of different models, two prompts each, one prompt of the second run twice."""
    rng = np.random.default_rng(seed)
    order = [("first", "riddle"), ("first", "plan"), ("second", "riddle"), ("second", "plan"), ("second", "plan")]
    return [record for run, prompt in order for record in prompt_records(rng, run, prompt)]


def test_tables(tmp_path: Path) -> None:
    records = all_records()
    runs = imported(tmp_path / "lake", saved(tmp_path / "phase5_records.jsonl", records))
    lake = tracelake.open(tmp_path / "lake")
    assert lake.verify(level="deep").ok
    assert lake.sql("SELECT model FROM runs ORDER BY model")["model"].to_list() == ["example/first", "example/second"]
    sequences = lake.sql("SELECT * FROM sequences ORDER BY run_id = $1, sequence_id", [runs[1]])
    assert sequences["item_id"].to_list() == ["riddle", "plan", "riddle", "plan", "plan"]
    assert sequences["sample"].to_list() == [0, 0, 0, 0, 1]
    assert [json.loads(m)["bucket"] for m in sequences["metadata"]] == [PROMPTS[p][0] for p in sequences["item_id"]]
    tokens = lake.sql(
        "SELECT * FROM token_steps JOIN sequences USING (run_id, sequence_id) "
        "ORDER BY run_id = $1, sequence_id, position",
        [runs[1]],
    )
    assert tokens["step"].to_list() == tokens["position"].to_list() == [r["t"] - 1 for r in records]
    assert tokens["sampling_logprob"].to_list() == [r["logprob"] for r in records]
    for column in ("logprob", "surprisal_bits", "entropy_bits", "sampling_entropy_bits"):
        assert tokens[column].null_count() == len(records)
    texts = [row["prompt"] + row["completion"][: row["char_end"]] for row in tokens.iter_rows(named=True)]
    assert texts == [r["cum_text"] for r in records]
    cosines = lake.sql(
        "SELECT * FROM imported_metrics WHERE name = 'cos_to_prev' ORDER BY run_id = $1, sequence_id, step", [runs[1]]
    )
    expected = [None if math.isnan(r["cos_to_prev"]) else r["cos_to_prev"] for r in records]
    assert cosines["value"].to_list() == expected
    assert cosines.filter(pl.col("value").is_null())["reason"].unique().to_list() == [
        "there is no step before the first"
    ]


def test_out_again_record_by_record(tmp_path: Path) -> None:
    records = all_records()
    runs = imported(tmp_path / "lake", saved(tmp_path / "records.jsonl", records))
    found = [record for run in runs for record in exported(tmp_path / "lake", run)]
    expected = [r | {"cos_to_prev": None} if math.isnan(r["cos_to_prev"]) else r for r in records]
    assert found == expected
    # And in once more, from what was written.
    again = imported(tmp_path / "other", saved(tmp_path / "again.jsonl", found))
    assert [record for run in again for record in exported(tmp_path / "other", run)] == expected


def test_text_that_is_not_whole_yet_and_a_prompt_that_is_decoded_otherwise(tmp_path: Path) -> None:
    base = prompt_records(np.random.default_rng(1), "first", "plan", steps=4)
    prompt = "  A plan: "  # the tokenizer drops the spaces in front
    for record, grown, token in zip(
        base,
        ["A plan: a", "A plan: a\ufffd", "A plan: a🙂", "A plan: a🙂b"],
        ["a", "\ufffd", "\ufffd", "b"],
        strict=True,
    ):
        record |= {"prompt_text": prompt, "cum_text": grown, "token": token}
    imported(tmp_path / "lake", saved(tmp_path / "r.jsonl", base))
    lake = tracelake.open(tmp_path / "lake")
    row = lake.sql("SELECT * FROM sequences").row(0, named=True)
    assert (row["prompt"], row["rendered_prompt"], row["completion"]) == (prompt, "A plan: ", "a🙂b")
    assert lake.sql("SELECT char_end FROM token_steps ORDER BY position")["char_end"].to_list() == [1, 1, 2, 3]
    assert [r["cum_text"] for r in exported(tmp_path / "lake", "latest")] == [
        "A plan: a",
        "A plan: a",
        "A plan: a🙂",
        "A plan: a🙂b",
    ]


def test_text_that_does_not_fit_is_null_with_a_reason(tmp_path: Path) -> None:
    base = prompt_records(np.random.default_rng(1), "first", "plan", steps=3)
    for record in base:
        record["cum_text"] = "something else"
    imported(tmp_path / "lake", saved(tmp_path / "r.jsonl", base))
    lake = tracelake.open(tmp_path / "lake")
    assert lake.sql("SELECT completion FROM sequences").item() is None
    reason = lake.sql("SELECT reason FROM imported_metrics WHERE name = 'sequences.completion'").item()
    assert reason == "the growing text does not begin with the prompt"


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (4, "", None),
        (4, "{not json", "line 4 is no JSON"),
        (4, '{"type": "phase5_step", "run_id"', "line 4 is no JSON"),
        (4, "[1, 2]", "line 4: expected an object of type 'phase5_step'"),
        (4, '{"type": "phase4_response"}', "found 'phase4_response'"),
        (4, '{"type": "phase5_step", "t": "5"}', "line 4: run_id: Field required"),
    ],
)
def test_bad_lines(tmp_path: Path, line: int, text: str, message: str | None) -> None:
    lines = [json.dumps(r) for r in all_records()]
    lines.insert(line - 1, text)
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(lines))
    if message is None:  # an empty line is nothing
        assert check_records([path], TsifSettings())[0].runs[("first", "example/first")] == [2, 18]
        return
    with pytest.raises(UsageError, match=message) as caught:
        check_records([path], TsifSettings())
    assert str(path) in str(caught.value)


def test_missing_and_reordered_steps(tmp_path: Path) -> None:
    records = all_records()
    for changed in (records[1:], records[:3] + records[4:], [records[0], records[2], records[1]]):
        with pytest.raises(UsageError, match=r"t counts 1, 2, 3"):
            check_records([saved(tmp_path / "r.jsonl", changed)], TsifSettings())
    for bad in ({"t": 0}, {"t": 2.0}, {"token_id": "x"}, {"token_id": 2**40}):
        with pytest.raises(UsageError, match="line 1: t" if "t" in bad else "line 1: token_id"):
            check_records([saved(tmp_path / "r.jsonl", [records[0] | bad])], TsifSettings())
    with pytest.raises(UsageError, match="has no records"):
        check_records([saved(tmp_path / "empty.jsonl", [])], TsifSettings())


def test_once_only_and_unchanged_after_a_refusal(tmp_path: Path) -> None:
    path = saved(tmp_path / "r.jsonl", all_records())
    lake = tmp_path / "lake"
    assert lake_command("import", "tsif", str(tmp_path / "none.jsonl"), "--lake", str(lake))[0] == 3
    assert not lake.exists()
    assert len(imported(lake, path)) == 2
    before = files(lake)
    again = lake_command("import", "tsif", str(path), "--lake", str(lake))  # as after a kill past the last commit
    assert again[0] == 0 and again[1].count("imported already: run tsif-") == 2 and files(lake) == before
    assert files(lake) == before
    assert imported(lake, path, new_only=True) == []
    assert len(imported(lake, path, again=True)) == 2


def test_not_finite_numbers(tmp_path: Path) -> None:
    records = prompt_records(np.random.default_rng(1), "first", "plan", steps=3)
    records[1]["logprob"] = -math.inf
    records[2] |= {"cos_to_prompt": math.nan, "logprob": None, "surprisal": 2.5}
    imported(tmp_path / "lake", saved(tmp_path / "r.jsonl", records))
    lake = tracelake.open(tmp_path / "lake")
    assert lake.sql("SELECT sampling_logprob FROM token_steps ORDER BY step")["sampling_logprob"].to_list()[1:] == [
        None,
        -2.5,
    ]
    reasons = lake.sql(
        "SELECT name, reason FROM imported_metrics WHERE step > 0 AND value IS NULL ORDER BY step"
    ).rows()
    assert reasons == [("sampling_logprob", "the source has infinity"), ("cos_to_prompt", "the source has NaN")]
