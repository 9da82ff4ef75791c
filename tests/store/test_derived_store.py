"""Analyses in the store: found the second time, replaced by newer ones, removed, and never in the way of a run."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import tracelake
from tracelake.analysis.paths.trajectory import Trajectory
from tracelake.analysis.question import ask
from tracelake.lake import Lake
from tracelake.lake.analyses import commit_analysis, remove_analysis
from tracelake.lake.derived import Analysis, replaced_entries
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.layout import DERIVED_WRITER
from tracelake.lake.records.commits import Record

LENGTHS = (1, 2, 3, 12, 12)
NO_PICTURE = Trajectory(umap="none")


def write_segment(run, index: int, *, dim: int = 8, prompt: bool = True) -> None:
    """Five sequences with embeddings, of 1, 2, 3 and twice 12 steps; the last one never moves."""
    rng = np.random.default_rng(index)
    ids = np.arange(len(LENGTHS)) + len(LENGTHS) * index
    with run.segment(index, (int(ids[0]), int(ids[-1]) + 1)) as segment:
        segment.append(
            "sequences",
            {"sequence_id": ids, "prompt_id": [f"p{i}" for i in ids], "n_prompt_tokens": np.full(5, 4, np.int32),
             "n_generated_tokens": np.array(LENGTHS, np.int32)},
        )  # fmt: skip
        sequence = np.repeat(ids, LENGTHS)
        step = np.concatenate([np.arange(n, dtype=np.int32) for n in LENGTHS])
        vectors = np.cumsum(rng.normal(size=(len(step), dim)), axis=0).astype(np.float32)
        vectors[-12:] = vectors[-1]
        tokens = {"sequence_id": sequence, "position": step + 4, "stack": "decoder", "step": step}
        segment.append("token_steps", tokens)
        columns = {"sequence_id": sequence, "position": step + 4, "step": step, "embedder": "e", "scope": "completion"}
        segment.append_vectors(
            "step_embeddings", columns=columns | {"truncated": False}, vectors=vectors, dtype="float32"
        )
        if prompt:
            place = {"sequence_id": ids, "position": np.full(5, 3, np.int32), "step": None, "embedder": "e"}
            segment.append_vectors(
                "step_embeddings",
                columns=place | {"scope": "prompt", "truncated": False},
                vectors=rng.normal(size=(5, dim)).astype(np.float32),
                dtype="float32",
            )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run("paths", {"plan": {"segments": [[0, 5], [5, 10]]}}) as run:
        write_segment(run, 0)
        write_segment(run, 1)
        run.finish()
    return lake


def test_the_second_call_is_a_look_up_and_force_computes_again(lake: Lake) -> None:
    first = ask(lake, "latest", NO_PICTURE)
    again = ask(lake, "paths", NO_PICTURE)
    assert (first.computed, again.computed) == (True, False)
    assert first.analysis_id == again.analysis_id and first.n_rows == again.n_rows and first.notices == again.notices
    forced = ask(lake, "paths", NO_PICTURE, force=True)
    assert forced.computed and forced.analysis_id == first.analysis_id
    assert lake.sql("select count(*) from trajectories").item() == 2 * sum(LENGTHS)
    assert lake.sql("select count(*) from analyses").item() == 1
    other = ask(lake, "paths", Trajectory(umap="none", sequences=(3,)))
    assert other.analysis_id != first.analysis_id and other.n_rows["trajectories"] == 12
    assert lake.sql("select name, parameters ->> 'umap' from analyses").unique().rows() == [("trajectory", "none")]


def test_values_equal_a_plain_computation_from_the_table(lake: Lake) -> None:
    found = ask(lake, "paths", NO_PICTURE)
    vectors = lake.scan("step_embeddings").collect()
    rows = lake.sql(
        f"select * from trajectories where sequence_id = 8 and analysis_id = '{found.analysis_id}' order by position"
    )
    own = vectors.filter(vectors["sequence_id"] == 8).sort("scope", "position")
    x = np.stack([np.frombuffer(v, "<f4") for v in own.filter(own["scope"] == "completion")["vector"]])
    prompt = np.frombuffer(own.filter(own["scope"] == "prompt")["vector"][0], "<f4")
    speed = np.linalg.norm(np.diff(x.astype(float), axis=0), axis=1)
    np.testing.assert_allclose(rows["velocity"][1:], speed, rtol=1e-5)
    cosine = x @ prompt / np.linalg.norm(x, axis=1) / np.linalg.norm(prompt)
    np.testing.assert_allclose(rows["cos_to_prompt"], cosine, atol=1e-5)
    assert rows["step"].to_list() == list(range(12)) and rows["position"].to_list() == list(range(4, 16))


def test_short_and_still_paths_have_nulls_with_reasons(lake: Lake) -> None:
    ask(lake, "paths", Trajectory(umap="sequence"))
    rows = {r["sequence_id"]: r for r in lake.sql("from trajectory_summaries").to_dicts()}
    assert rows[0]["mean_velocity"] is None and "1 step" in rows[0]["reason"] and "umap" in rows[0]["reason"]
    assert rows[1]["mean_velocity"] > 0 and rows[1]["mean_curvature_rad"] is None and "2 steps" in rows[1]["reason"]
    assert rows[2]["mean_curvature_rad"] > 0 and rows[2]["umap_path_length"] is None
    assert rows[3]["umap_path_length"] > 0 and rows[3]["tortuosity"] >= 1
    assert rows[4]["path_length"] == 0 and rows[4]["tortuosity"] is None and "ends where it began" in rows[4]["reason"]
    still = lake.sql("select * from trajectories where sequence_id = 4 and step > 1")
    assert still["velocity"].to_list() == [0] * 10 and still["curvature_rad"].null_count() == 10
    assert all("zero step" in reason for reason in still["reason"])
    no_nan = lake.sql(
        "select count(*) from trajectories where isnan(velocity) or isnan(curvature_rad) or isnan(umap_x)"
    )
    assert no_nan.item() == 0


def test_a_missing_prompt_is_said(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run("bare", {}) as run:
        write_segment(run, 0, prompt=False)
        run.finish()
    found = ask(lake, "bare", NO_PICTURE)
    assert "5 sequences have no vector of the prompt" in found.notices[0]
    rows = lake.sql("select cos_to_prompt, reason from trajectories")
    assert rows["cos_to_prompt"].null_count() == rows.height
    assert all("not stored" in reason for reason in rows["reason"])
    with pytest.raises(NotFoundError, match="Stored: e, completion"):
        ask(lake, "bare", Trajectory(scope="window:3"))


def test_more_rows_of_the_run_replace_the_older_answer(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run("grows", {"plan": {"segments": [[0, 5], [5, 10]]}}) as run:
        write_segment(run, 0)
        before = ask(lake, "grows", NO_PICTURE)  # while the run is being written
        assert lake.run_status("grows") == "running"
        write_segment(run, 1)
    assert lake.run_status("grows") == "interrupted"
    after = ask(lake, "grows", NO_PICTURE)
    assert after.computed and after.analysis_id != before.analysis_id
    assert [a.analysis_id for a in lake.analyses("grows")] == [after.analysis_id]
    assert lake.sql("select count(*) from trajectories").item() == 2 * sum(LENGTHS)
    with lake.resume_run("grows") as run:
        run.finish()
    assert lake.run_status("grows") == "complete", "an analysis is no unfinished writer"
    assert lake.runs()[0]["n_sequences"] == 10


def test_removed_analyses_leave_at_once_and_their_bytes_with_vacuum(lake: Lake) -> None:
    found = ask(lake, "paths", NO_PICTURE)
    files = list(((lake.path / "data") / "trajectories").rglob("*.parquet"))
    planned = remove_analysis(lake, found.analysis_id)
    assert planned.dry_run and planned.files == 3 and lake.analyses()
    remove_analysis(lake, found.analysis_id, dry_run=False)
    assert not lake.analyses() and lake.sql("select count(*) from trajectories").item() == 0 and files[0].exists()
    assert lake.verify("deep").ok and not lake.verify("full").notes
    assert lake.vacuum(dry_run=False).files == 0, "too young"
    assert lake.vacuum(older_than_days=0, dry_run=False).files == 3 and not files[0].exists()
    assert lake.verify("deep").ok
    assert ask(lake, "paths", NO_PICTURE).computed
    remove_analysis(lake, found.analysis_id, dry_run=False, now=True)
    assert not list(((lake.path / "data") / "trajectories").rglob("*.parquet")) and lake.verify("deep").ok
    with pytest.raises(NotFoundError, match="no analysis"):
        remove_analysis(lake, found.analysis_id)


def test_verify_sees_damage_of_an_analysis_and_rm_takes_it_with_the_run(lake: Lake) -> None:
    ask(lake, "paths", NO_PICTURE)
    assert lake.verify("deep").ok
    [file] = ((lake.path / "data") / "trajectory_summaries").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-1])
    assert [p.path for p in lake.verify("quick").problems] == [file.relative_to(lake.path).as_posix()]
    lake.remove("paths", dry_run=False, now=True)
    assert not list((lake.path / "data").rglob("*.parquet")) and not lake.analyses()


def test_a_failed_commit_leaves_nothing(lake: Lake) -> None:
    analysis = Analysis("paths", "trajectory", {"x": 1}, "0" * 16)
    with pytest.raises(Exception, match="no column 'nonsense'"):
        commit_analysis(lake, analysis, {"trajectories": {"nonsense": [1]}})
    assert not lake.analyses() and lake.verify("deep").ok and not list((lake.path / "_staging").rglob("*.part"))
    commit_analysis(lake, analysis, {"analyses": {"analysis_id": analysis.analysis_id, "name": "trajectory",
                                                  "parameters": "{}", "snapshot": "0"}})  # fmt: skip
    assert [a.analysis_id for a in lake.analyses()] == [analysis.analysis_id]


def test_the_last_word_counts() -> None:
    def record(seq: int, analysis_id: str | None, replaces: list[str]) -> Record:
        about = {"analysis_id": analysis_id} if analysis_id else {}
        time = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=seq)).isoformat()
        place = {"run_id": "r", "writer": DERIVED_WRITER, "previous": "", "tool_version": "0"}
        return Record(**place, seq=seq, op="derive", time=time, analysis=about, replaces=replaces)

    chain = [record(0, "a", []), record(1, "a", []), record(2, None, ["a"]), record(3, "a", ["a"])]
    assert list(replaced_entries(chain)) == []  # no files, no entries
    from tracelake.lake.snapshot import RunLog

    assert [r.seq for r in RunLog("r", {}, "", {DERIVED_WRITER: chain}, False).derived] == [3]
    assert [r.seq for r in RunLog("r", {}, "", {DERIVED_WRITER: chain[:2]}, False).derived] == [0, 1]


def test_asked_by_name(lake: Lake) -> None:
    opened = tracelake.open(lake.path)
    first = opened.analyze("trajectory", "paths", umap="none")
    assert first.computed and not ask(lake, "paths", NO_PICTURE).computed
    assert opened.analyze("topology", null_paths=0, sequences=(3, 4)).n_rows["persistence_summaries"] == 8
    with pytest.raises(NotFoundError, match="Did you mean 'topology'"):
        opened.analyze("topologie")
    with pytest.raises(UsageError, match="Did you mean 'layer'"):
        opened.analyze("trajectory", layers=3)
    with pytest.raises(UsageError, match="asked of one run"):
        opened.analyze("trajectory", ["paths", "paths"])
