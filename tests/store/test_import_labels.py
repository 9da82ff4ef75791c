"""`lake import labels`: verdicts of people's own by item or sequence, joined with the grades, replaced, refused."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tracelake.cli import app
from tracelake.lake import Lake
from tracelake.lake.errors import LakeError, NotFoundError, UsageError
from tracelake.lake.exchange.labels import import_labels

ITEMS = ["a", "a", "b", "b", "7"]
GRADES = [True, False, None, True, False]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake with one run of five sequences of three items."""
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run("judged", {"plan": {"segments": [[0, 5]]}}) as run:
        with run.segment(0, (0, 5)) as segment:
            segment.append(
                "sequences",
                {"sequence_id": np.arange(5), "prompt_id": [f"p-{item}" for item in ITEMS], "item_id": ITEMS,
                 "correct": GRADES, "n_prompt_tokens": np.full(5, 2, np.int32)},
            )  # fmt: skip
        run.finish()
    return lake


def written(folder: Path, name: str, rows: list[dict]) -> Path:
    frame, path = pl.DataFrame(rows), folder / name
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        frame.write_csv(path, separator="," if path.suffix == ".csv" else "\t")
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["v.csv", "v.tsv", "v.jsonl", "v.json", "v.parquet"])
def test_verdicts_by_item_hold_for_all_of_its_sequences(name: str, lake: Lake, tmp_path: Path) -> None:
    rows = [
        {"item_id": "a", "correct": False, "reason": "two, not three"},
        {"item_id": "7", "correct": None, "reason": None},
    ]
    done = import_labels(lake, written(tmp_path, name, rows))
    assert (done.run_id, done.n_labels, done.n_correct) == ("judged", 3, 0)
    assert done.notices == ("2 of 5 sequences have no verdict in the file.",)
    found = lake.sql("select * from labels order by sequence_id").rows(named=True)
    assert [(row["sequence_id"], row["prompt_id"], row["correct"], row["label_reason"]) for row in found] == [
        (0, "p-a", False, "two, not three"), (1, "p-a", False, "two, not three"), (4, "p-7", None, None),
    ]  # fmt: skip
    assert {row["analysis_id"] for row in found} == {done.analysis_id} and found[0]["source_run_id"] is None
    assert lake.sql("select list(correct order by sequence_id) from sequences").item().to_list() == GRADES
    assert lake.verify("deep").ok


def test_sequences_whose_prompt_is_not_known_are_labelled_too(tmp_path: Path) -> None:
    """Logs of interfaces can lack the prompt."""
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run("logged", {"plan": {"segments": [[0, 1]]}}) as run:
        with run.segment(0, (0, 1)) as segment:
            segment.append("sequences", {"sequence_id": [0], "item_id": "a"})
        run.finish()
    import_labels(lake, written(tmp_path, "v.csv", [{"item_id": "a", "correct": True}]))
    assert lake.sql("select prompt_id, correct from labels").rows() == [(None, True)]


def test_verdicts_stand_beside_the_grades(lake: Lake, tmp_path: Path) -> None:
    rows = [{"sequence_id": i, "correct": word} for i, word in enumerate(["yes", "1", "Wrong", "TRUE", ""])]
    import_labels(lake, written(tmp_path, "v.csv", rows))
    found = lake.sql(
        "select s.sequence_id, s.correct as grade, l.correct as verdict from sequences s "
        "left join labels l using (run_id, sequence_id) order by s.sequence_id"
    )
    assert found["verdict"].to_list() == [True, True, False, True, None]
    assert found["grade"].to_list() == GRADES


def test_a_set_of_verdicts_is_replaced_under_its_name_and_others_stay(lake: Lake, tmp_path: Path) -> None:
    first = import_labels(lake, written(tmp_path, "ann.csv", [{"item_id": "a", "correct": True}]))
    import_labels(lake, written(tmp_path, "bob.csv", [{"item_id": "a", "correct": False}]))
    again = import_labels(lake, written(tmp_path, "ann.csv", [{"item_id": "b", "correct": True}]))
    assert again.analysis_id != first.analysis_id
    found = lake.sql(
        "select a.parameters ->> 'name' as name, l.sequence_id, l.correct from labels l "
        "join analyses a using (run_id, analysis_id) order by all"
    )
    assert found.rows() == [("ann", 2, True), ("ann", 3, True), ("bob", 0, False), ("bob", 1, False)]
    same = import_labels(lake, tmp_path / "ann.csv")
    assert same.analysis_id == again.analysis_id and lake.sql("select count(*) from labels").item() == 4


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("item_id,correct\nz,true\na,true\n", NotFoundError, "1 of 2 rows name a item_id .* 'z'"),
        ("item_id,correct\na,true\na,false\n", UsageError, "item_id 'a' stands in 2 rows"),
        ("item_id,correct\na,perhaps\n", UsageError, "row 0: `correct` is 'perhaps'"),
        ("sequence_id,correct\nx,true\n", UsageError, "whole numbers"),
        ("sequence_id,correct\n,true\n", UsageError, "row 0: sequence_id is missing"),
        ("item_id,verdict\na,true\n", UsageError, "needs `correct`"),
        ("item_id,sequence_id,correct\na,0,true\n", UsageError, "one of sequence_id or item_id"),
        ("item_id,correct,reason\na,true,one, two\n", UsageError, "cannot be read as csv"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    text: str, kind: type[LakeError], says: str, lake: Lake, tmp_path: Path
) -> None:
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(kind, match=says):
        import_labels(lake, tmp_path / "v.csv")
    assert not lake.analyses() and lake.verify("deep").ok


def test_files_that_are_none_are_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere.csv"):
        import_labels(lake, tmp_path / "nowhere.csv")
    with pytest.raises(UsageError, match=".csv, .tsv"):
        import_labels(lake, tmp_path / "v.xlsx")
    (tmp_path / "v.jsonl").write_text("{no")
    with pytest.raises(UsageError, match="jsonl"):
        import_labels(lake, tmp_path / "v.jsonl")


def test_the_command(lake: Lake, tmp_path: Path) -> None:
    file = written(tmp_path, "v.csv", [{"item_id": "a", "correct": True, "who": "me"}])
    arguments = ["import", "labels", str(file), "--run", "judged", "--lake", str(lake.path), "--json"]
    done = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert (done["n_labels"], done["n_correct"]) == (2, 2)
    assert done["notices"][0] == "Columns that are not kept: who."
