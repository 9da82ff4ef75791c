"""Runs: status, resolution, locks, snapshots, several writers, removal, vacuum, and lakes that cannot be opened."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelake.lake import layout as layout_module
from tracelake.lake.errors import LakeError, LockedError, NewerFormatError, NotFoundError, UsageError
from tracelake.lake.lake import Lake
from tracelake.lake.records.run_json import FORMAT_VERSION
from tracelake.lake.schema import TABLES


@pytest.fixture
def lake(tmp_path):
    return Lake.create(tmp_path / "lake")


def write(run, index=0, **counters):
    with run.segment(index, (index, index + 1)) as segment:
        segment.append("sequences", {"sequence_id": [index], "prompt": "p"})
        columns = {"sequence_id": index, "position": np.arange(4, dtype=np.int32), "stack": "decoder"}
        segment.append("token_steps", columns)
        segment.count(**counters)


def finished(lake, run_id, **run_json):
    with lake.start_run(run_id, run_json) as run:
        write(run)
        run.finish()


def test_the_row_of_a_run(lake):
    model = {"name": "m", "revision": "r", "n_layers": 2, "dtype": "float32", "is_encoder_decoder": False, "other": 1}
    with lake.start_run(
        "one-run", {"kind": "generate", "tag": "t", "seed": 3, "model": model, "config": {"b": 1}}
    ) as run:
        assert lake.runs()[0]["status"] == "running"
        write(run, 0, n_tokens=40, batches=2)
        assert run.counters == {"n_sequences": 1, "n_tokens": 40, "batches": 2}
        run.finish(extra={"note": "x"})
        assert run.finished
    row = lake.runs()[0]
    assert list(row) == TABLES["runs"].names and lake.runs_table().schema == TABLES["runs"].schema
    wanted = {
        "status": "complete",
        "model": "m",
        "model_revision": "r",
        "n_layers": 2,
        "n_tokens": 40,
        "config": '{"b": 1}',
    }
    assert row.items() >= wanted.items() and row["finished_at"] >= row["created_at"]
    assert lake.sql("select run_id, status, n_tokens from runs").rows() == [("one-run", "complete", 40)]
    assert lake.run_json("one-run")["model"]["other"] == 1


def test_status_through_a_life(lake):
    run = lake.start_run("life", {"plan": {"segments": [[0, 1], [1, 2]]}})
    write(run, 0)
    run.close()
    assert lake.run_status("life") == "interrupted"
    with lake.resume_run("life") as run:
        assert lake.run_status("life") == "running" and run.committed == {0}
        run.finish("failed", error="the model broke")
    assert lake.run_status("life") == "failed" and lake.runs()[0]["error"] == "the model broke"
    assert lake.sql("select count(*) as n from token_steps")["n"][0] == 4
    with lake.resume_run("life") as run:
        with pytest.raises(UsageError, match="committed already"):
            run.segment(0, (0, 1))
        run.finish()
    assert lake.run_status("life") == "interrupted", "a segment of the plan is missing"
    with lake.resume_run("life") as run:
        write(run, 1)
        run.finish()
    assert lake.run_status("life") == "complete"
    with lake.resume_run("life") as run:
        assert run.finished
        with pytest.raises(UsageError, match="closed"):
            run.close()
            write(run, 5)


def test_resolution(lake):
    for number, run_id in enumerate(["abc-one", "abc-two", "xyz"]):
        finished(lake, run_id, tag="twice" if number < 2 else "only", created_at=f"2026-01-0{number + 1}T00:00:00Z")
    assert lake.resolve_run("latest") == "xyz" == lake.resolve_run("only") == lake.resolve_run("xy")
    assert lake.resolve_run("abc-one") == "abc-one"
    with pytest.raises(UsageError, match="abc-one, abc-two"):
        lake.resolve_run("abc")
    with pytest.raises(UsageError, match="tag 'twice' means 2 runs"):
        lake.resolve_run("twice")
    with pytest.raises(NotFoundError, match="Did you mean 'abc-one'"):
        lake.resolve_run("abc_one")
    lake.remove("xyz", dry_run=False)
    assert lake.resolve_run("latest") == "abc-two"
    with pytest.raises(NotFoundError):
        Lake.create(lake.path.parent / "empty").resolve_run("latest")


def test_a_snapshot_does_not_move(lake):
    run = lake.start_run("moving", {})
    write(run, 0)
    snapshot = lake.snapshot()
    with lake.connect() as before:
        write(run, 1)
        assert before.arrow("select count(*) as n from token_steps")["n"][0].as_py() == 4
    assert len(snapshot.files("token_steps")) == 1 and len(lake.snapshot().files("token_steps")) == 2
    assert lake.sql("select count(*) as n from token_steps")["n"][0] == 8
    run.close()


def test_locks(lake):
    run = lake.start_run("locked", {})
    with pytest.raises(LockedError, match="writing run locked"):
        lake.resume_run("locked")
    code = "import sys; from tracelake.lake.lake import Lake; Lake.open(sys.argv[1]).resume_run('locked')"
    other = subprocess.run([sys.executable, "-c", code, str(lake.path)], capture_output=True, text=True)
    assert "LockedError" in other.stderr
    with pytest.raises(LockedError):
        lake.remove("locked", dry_run=False)
    lake.resume_run("locked", writer="w1").close()
    run.close()
    with pytest.raises(UsageError, match="exists already"):
        lake.start_run("locked", {})
    lake.resume_run("locked").close()


def test_a_start_that_died_before_run_json_can_be_repeated(lake):
    (lake.path / "_runs" / "half-run" / "commits").mkdir(parents=True)
    assert lake.runs() == [] and lake.verify().ok
    lake.start_run("half-run", {}).close()


def test_several_writers_and_runs_at_once(lake):
    first, other = lake.start_run("shared", {"plan": {"segments": [[0, 1], [1, 2]]}}), lake.start_run("other", {})
    second = lake.resume_run("shared", writer="w1")
    with first.segment(0, (0, 1)) as a, second.segment(1, (1, 2)) as b, other.segment(0, (0, 1)) as c:
        for index, segment in enumerate((a, b, c)):
            segment.append("sequences", {"sequence_id": [index], "prompt": "p"})
    first.finish()
    assert lake.run_status("shared") == "running"
    second.finish()
    other.finish()
    assert {row["run_id"]: row["status"] for row in lake.runs()} == {"shared": "complete", "other": "complete"}
    assert lake.verify("deep").ok and lake.sql("select sum(n_sequences) as n from runs")["n"][0] == 3


def test_a_segment_committed_by_two_writers_counts_once(lake):
    first = lake.start_run("retried", {})
    second = lake.resume_run("retried", writer="w1")  # a retry that started before the first one committed
    write(first, 0)
    write(second, 0)
    first.finish()
    second.finish()
    assert lake.sql("select count(*) as n from token_steps")["n"][0] == 4
    report = lake.verify("deep")
    assert report.ok and [note.kind for note in report.notes] == ["twice"]


def test_remove_keeps_until_vacuum(lake):
    finished(lake, "goner", tag="secret words")
    finished(lake, "stays")
    dry = lake.remove("goner")
    assert dry.dry_run and dry.files == 3 and lake.sql("select count(*) as n from token_steps")["n"][0] == 8
    lake.remove("goner", dry_run=False)
    assert lake.sql("select distinct run_id from token_steps").rows() == [("stays",)]
    assert {row["run_id"]: row["status"] for row in lake.runs()} == {"goner": "removed", "stays": "complete"}
    assert (
        not list((lake.path / "_trash").rglob("*.parquet")) and len(list((lake.path / "_trash").rglob("*.trash"))) >= 2
    )
    assert not list((lake.path / "data").glob("*/run=goner")) and lake.verify("deep").ok
    for call in (lake.resume_run, lake.remove):
        with pytest.raises(NotFoundError, match="removed"):
            call("goner")
    with pytest.raises(UsageError, match="exists already"):
        lake.start_run("goner", {})
    assert lake.vacuum().files == 0
    assert lake.vacuum(older_than_days=0).files > 0 and list((lake.path / "_trash").rglob("*.trash"))
    lake.vacuum(older_than_days=0, dry_run=False)
    assert not list((lake.path / "_trash").iterdir()) and lake.verify("deep").ok
    assert [row["run_id"] for row in lake.runs()] == ["stays"]


def test_remove_now_leaves_no_byte_of_text(lake):
    for run_id in ("private-one", "private-two"):
        with lake.start_run(run_id, {"prompts": ["a canary sings"]}) as run:
            with run.segment(0, (0, 1)) as segment:
                segment.append("sequences", {"sequence_id": [0], "prompt": "a canary sings"})
            run.finish()
    lake.remove("private-two", dry_run=False)
    lake.remove("private-two", dry_run=False, now=True)
    lake.remove("private-one", dry_run=False, now=True)
    left = [path for path in lake.path.rglob("*") if path.is_file()]
    assert not [path for path in left if b"canary" in path.read_bytes() or path.suffix in (".parquet", ".trash")]
    assert lake.runs() == [] and lake.verify("deep").ok and lake.vacuum(0, False).kept == []


def test_a_removal_that_died_is_completed_by_vacuum(lake, monkeypatch):
    finished(lake, "goner")
    monkeypatch.setattr("tracelake.lake.upkeep.removal._clear", lambda *a: (_ for _ in ()).throw(OSError(5, "died")))
    with pytest.raises(LakeError):
        lake.remove("goner", dry_run=False)
    monkeypatch.undo()
    assert lake.sql("from token_steps").height == 0 and lake.verify("full").ok
    lake.vacuum(older_than_days=0, dry_run=False)
    assert not list((lake.path / "data").rglob("*.parquet"))


def age(path, days):
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_vacuum_takes_only_what_is_surely_garbage(lake):
    run = lake.start_run("working", {})
    write(run, 0)
    folder = next((lake.path / "data").glob("token_steps/*"))
    named = next(folder.iterdir())
    orphan, stray = folder / "part-w0-000007-0123abcd.parquet", folder / "notes.txt"
    draft = lake.path / "_staging" / "working" / "w0" / "x.part"
    draft.parent.mkdir(parents=True, exist_ok=True)
    for path in (orphan, stray, draft):
        path.write_bytes(b"x")
        age(path, 3)
    age(named, 30)
    assert lake.vacuum(dry_run=False).files == 0, "the writer may still commit it"
    run.close()
    result = lake.vacuum(dry_run=False)
    assert sorted(result.paths) == sorted(p.relative_to(lake.path).as_posix() for p in (orphan, draft))
    assert named.exists() and stray.exists() and any("notes.txt" in text for text in result.kept)
    orphan.write_bytes(b"x")
    assert lake.vacuum(dry_run=False).files == 0, "too young"
    age(orphan, 3)
    ((lake.path / "_runs" / "working" / "commits") / "w0-000000.json").write_bytes(b"torn")
    result = lake.vacuum(dry_run=False)
    assert result.files == 0 and "records are damaged" in result.kept[0] and named.exists()


def test_opening_what_is_no_lake(tmp_path, lake):
    with pytest.raises(NotFoundError, match="lake collect"):
        Lake.open(tmp_path / "nowhere")
    marker = json.loads((lake.path / "lake.json").read_text())
    (lake.path / "lake.json").write_text(json.dumps(marker | {"format_version": FORMAT_VERSION + 1}))
    for opening in (Lake.open, Lake.create):
        with pytest.raises(NewerFormatError, match="newer tracelake"):
            opening(lake.path)
    (lake.path / "lake.json").write_text("{")
    with pytest.raises(LakeError, match="lake.json is damaged"):
        Lake.open(lake.path)


def test_creating_twice_opens(lake):
    before = (lake.path / "lake.json").read_bytes()
    assert (Lake.create(lake.path).path / "lake.json").read_bytes() == before


@pytest.mark.parametrize("run_id", ["", "ab", "Abc", "1abc", "a/b", "../abc", "abc.", "a" * 65, "abc\n", "abç"])
def test_bad_run_ids(lake, run_id):
    with pytest.raises(UsageError):
        lake.start_run(run_id, {})


@given(st.text(max_size=20))
def test_no_name_leads_out_of_the_lake(text):
    for pattern in (layout_module.RUN_ID, layout_module.WRITER, layout_module.SAFE_NAME):
        try:
            name = layout_module.check_name(text, pattern, "name")
        except UsageError:
            continue
        assert (
            "/" not in name
            and ".." not in f"{name}"[:2]
            and "\\" not in name
            and name.isascii()
            and name.strip() == name
        )


def test_the_store_loads_no_model_library_and_little_else(lake):
    finished(lake, "small")
    code = (
        "import sys; import tracelake.lake; early = {'pyarrow', 'duckdb', 'polars'} & set(sys.modules)\n"
        "from tracelake.lake import Lake\n"
        "with Lake.open(sys.argv[1]).connect(locked=True) as c: c.arrow('select count(*) from token_steps')\n"
        "late = {'torch', 'transformers', 'polars', 'pyarrow.dataset', 'pandas', 'altair'} & set(sys.modules)\n"
        "print(sorted(early), sorted(late))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(lake.path)], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[] []", "")
