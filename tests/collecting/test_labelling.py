"""Verdicts given later: by other graders into `grades`, by other runs into `labels`, joined by prompt."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tracelake.collect.inputs.grading import grade
from tracelake.collect.labelling import grade_run, labels_from
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.lake import Lake

PROMPTS = ["p-a", "p-b", "p-c", "p-d"]


def add_run(lake: Lake, run_id: str, rows: list[tuple[str, str | None, str | None, bool | None]]) -> None:
    """A run whose sequences have (prompt_id, completion, answer, correct)."""
    prompts, completions, answers, verdicts = (list(column) for column in zip(*rows, strict=True))
    with lake.start_run(run_id, {"kind": "generate", "model": {}}) as run:
        with run.segment(0, (0, 1)) as segment:
            columns = {"sequence_id": np.arange(len(rows)), "prompt_id": prompts, "completion": completions}
            reasons = [None if v is not False else "differs from the answer" for v in verdicts]
            graded = {"answer": answers, "correct": verdicts, "label_reason": reasons}
            segment.append("sequences", columns | graded)
        run.finish()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    completions = ["It is 12.", "I count 12, then 13.", "no", None]
    add_run(lake, "asked-1", [(p, c, "12", None) for p, c in zip(PROMPTS, completions, strict=True)])
    sampled = [
        *(("p-a", "x", "1", verdict) for verdict in (True, True, False)),
        *(("p-b", "x", "1", verdict) for verdict in (True, False)),
        *(("p-c", "x", "1", verdict) for verdict in (False, False, True)),
        ("p-z", "x", "1", True),
    ]
    add_run(lake, "sampled-1", sampled)
    return lake


def test_other_graders_write_grades_beside_what_the_run_stored(lake: Lake) -> None:
    before = lake.scan("sequences", "asked-1").collect()
    exact, contains = grade_run(lake, "asked-1", "exact"), grade_run(lake, "asked-1", "contains")
    assert exact.computed and (exact.n_labels, exact.n_right, exact.n_wrong) == (4, 1, 2)
    assert (contains.n_right, contains.n_wrong) == (2, 1)
    rows = lake.sql("select * from grades where grader = 'exact/2' order by sequence_id").to_dicts()
    for row, completion in zip(rows[:3], before["completion"], strict=False):
        expected = grade(completion, "12")
        found = (row["predicted_answer"], row["correct"], row["label_reason"])
        assert found == (expected.predicted_answer, expected.correct, expected.reason)
    assert (rows[3]["correct"], rows[3]["label_reason"]) == (None, "no reference answer")
    assert [row["prompt_id"] for row in rows] == PROMPTS
    assert lake.scan("sequences", "asked-1").collect().equals(before)
    again = grade_run(lake, "asked-1", "exact")
    assert not again.computed and (again.analysis_id, again.n_right) == (exact.analysis_id, 1)
    assert lake.sql("select count(*) n from grades")["n"][0] == 8


def test_labels_by_a_grader(lake: Lake) -> None:
    done = grade_run(lake, "asked-1", "contains", table="labels")
    rows = lake.sql("select correct, source_run_id from labels order by sequence_id").rows()
    assert rows == [(True, None), (True, None), (False, None), (None, None)]
    assert done.n_right == 2


def test_labels_of_another_run_are_joined_by_prompt_and_its_samples_vote(lake: Lake) -> None:
    done = labels_from(lake, "asked-1", "sampled-1")
    rows = lake.sql("select * from labels order by sequence_id").to_dicts()
    found = [(r["prompt_id"], r["correct"], round(r["share"], 3), r["n_samples"], r["label_reason"]) for r in rows]
    assert found == [
        ("p-a", True, 0.667, 3, None),
        ("p-b", None, 0.5, 2, "as many samples right as wrong"),
        ("p-c", False, 0.333, 3, "most samples are wrong"),
    ]
    assert {row["source_run_id"] for row in rows} == {"sampled-1"}
    assert done.notices[0] == "1 of 4 prompts have no grade in the other run: p-d."
    assert done.notices[1] == "3 prompts have right and wrong samples there; 1 of them as many, without label."
    assert not labels_from(lake, "asked-1", "sampled-1").computed


def test_what_cannot_be_labelled_is_refused(lake: Lake) -> None:
    add_run(lake, "read-1", [("p-a", None, None, None)])
    add_run(lake, "else-1", [("p-y", "x", "1", True)])
    for error, match, call in [
        (UsageError, "come from itself", lambda: labels_from(lake, "asked-1", "asked-1")),
        (UsageError, "read-1 has no grades", lambda: labels_from(lake, "asked-1", "read-1")),
        (NotFoundError, "graded none of the 4 prompts", lambda: labels_from(lake, "asked-1", "else-1")),
        (UsageError, "no completions", lambda: grade_run(lake, "read-1", "exact")),
        (UsageError, "There is no grader 'exakt'", lambda: grade_run(lake, "asked-1", "exakt")),
        (NotFoundError, "nope", lambda: grade_run(lake, "nope-1", "exact")),
    ]:
        with pytest.raises(error, match=match):
            call()
    assert lake.sql("select count(*) n from analyses")["n"][0] == 0
    assert isinstance(lake.scan("labels").collect(), pl.DataFrame)


def test_regenerated_labels_are_those_of_a_new_run_over_the_same_prompts(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from tracelake.commands.analyses.analyze import app
    from tracelake.commands.collecting.collect_run import run_collect

    settings = {"dataset": "tinymath", "limit": 3, "max_new_tokens": 0, "keep": ["tokens"], "tag": "prompts"}
    run = run_collect(tmp_path / "lake", settings)
    result = CliRunner().invoke(
        app, ["labels", str(run), "--regenerate", "--max-new-tokens", "100", "--lake", str(tmp_path / "lake")]
    )
    assert result.exit_code == 0, result.output
    lake = Lake.open(tmp_path / "lake")
    rows = lake.sql(
        "select l.correct as label, l.source_run_id as source, s.correct from labels l "
        "join sequences s on s.run_id = l.source_run_id and s.prompt_id = l.prompt_id order by l.sequence_id"
    ).to_dicts()
    assert len(rows) == 3 and all(row["label"] == row["correct"] for row in rows)
    assert any(row["correct"] for row in rows)
    assert all(row["source"].startswith("answers-") for row in rows)
