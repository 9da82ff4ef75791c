"""Runs over prompts as people have them: graded as asked, metadata stored, piped prompts resumed without the pipe."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tracelake
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.inputs.grading import grade
from tracelake.collect.running.collector import resume_run
from tracelake.collect.tinymath import problems
from tracelake.lake import Lake
from tracelake.lake.errors import StoppedError, UsageError

PROBLEMS = list(problems("test", limit=3))


def published(index: int, **more: Any) -> dict[str, Any]:
    problem = PROBLEMS[index]
    return {"question": problem.question, "answer": f"We add.\n#### {problem.answer}", "level": problem.level, **more}


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_worked_solutions_are_references_and_options_make_a_choice(tmp_path: Path) -> None:
    other = str(int(PROBLEMS[1].answer) + 1)
    rows = [
        published(0),
        {**published(1, options=[other, PROBLEMS[1].answer]), "answer": "B"},
        {"question": PROBLEMS[2].question},
    ]
    tracelake.collect(tmp_path / "lake", prompts=written(tmp_path, rows), max_new_tokens=100, keep=["tokens"])
    found = tracelake.open(tmp_path / "lake").sql("select * from sequences order by sequence_id").rows(named=True)
    for row, problem in zip(found, PROBLEMS, strict=True):
        assert row["prompt"] == problem.question
        right = grade(row["completion"], problem.answer).correct
        assert row["correct"] == (None if row["answer"] is None else right)
    assert any(row["correct"] for row in found), "the bundled model solves one of them"
    assert [row["grader"] for row in found] == ["exact/2", "choice/1", None]
    assert found[0]["answer"] == rows[0]["answer"] and json.loads(found[0]["metadata"]) == {"level": PROBLEMS[0].level}
    assert found[1]["predicted_answer"] in ("A", "B", None)
    assert json.loads(found[1]["metadata"])["options"] == [other, PROBLEMS[1].answer]


def test_the_grader_that_was_asked_for_is_stored(tmp_path: Path) -> None:
    settings = {"prompts": written(tmp_path, [published(0)]), "max_new_tokens": 3, "keep": ["tokens"]}
    for grader, name in [("contains", "contains/1"), (r"regex:(\d+)", r"regex/1:(\d+)"), ("exact", "exact/2")]:
        run = tracelake.collect(tmp_path / "lake", grader=grader, **settings).run_id  # type: ignore[arg-type]
        stored = tracelake.open(tmp_path / "lake").sql("select grader from sequences where run_id = $run", {"run": run})
        assert stored["grader"].to_list() == [name]


def test_tables_with_times_and_holes_are_collected(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": ["hi", "ho"],
            "answer": pa.array([3.0, float("nan")]),
            "id": pa.array([7.0, float("nan")]),
            "metadata": pa.array([{"t": 1577836800000000001}, None], pa.struct([("t", pa.timestamp("ns"))])),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    tracelake.collect(tmp_path / "lake", prompts=str(tmp_path / "p.parquet"), max_new_tokens=2, keep=["tokens"])
    found = tracelake.open(tmp_path / "lake").sql(
        "select item_id, answer, correct is null as ungraded, label_reason is null as no_reason, "
        "metadata ->> '$.t' as t from sequences order by sequence_id"
    )
    assert found.rows() == [("7", "3.0", False, False, "2020-01-01 00:00:00.000000001"), ("1", None, True, True, None)]


def test_a_bad_item_starts_no_run(tmp_path: Path) -> None:
    path = written(tmp_path, [published(0), {"prompt": "hi", "answer": "\ud83d"}])
    with pytest.raises(UsageError, match="line 2"):
        tracelake.collect(tmp_path / "lake", prompts=path)
    assert not (tmp_path / "lake").exists()


def test_piped_prompts_are_resumed_without_the_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "".join(json.dumps(published(i)) + "\n" for i in range(3)).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    lake = Lake.create(tmp_path / "lake")
    settings = {"prompts": "-", "max_new_tokens": 2, "keep": ["tokens"], "segment_items": 1, "batch_size": 1}
    with pytest.raises(StoppedError):
        tracelake.collect(lake, max_bytes=1, **settings)  # type: ignore[arg-type]
    assert lake.runs()[0]["n_sequences"] == 1
    monkeypatch.setattr("sys.stdin", None)
    resume_run(lake, "latest")
    prompts = lake.sql("select prompt from sequences order by sequence_id")["prompt"].to_list()
    assert prompts == [problem.question for problem in PROBLEMS]
    assert CollectConfig(**lake.run_json("latest")["config"]).prompts == "-"
