"""Links, pipes and folders where a lake has files: nothing is read, written or deleted through them, and none hangs."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, DamageError, LakeError

RUN = "linked-run"


def write_run(lake: Lake, run_id: str) -> None:
    with lake.start_run(run_id, {"tag": "t", "plan": {"segments": [[0, 1]]}}) as run:
        with run.segment(0, (0, 1)) as segment:
            segment.append("sequences", {"sequence_id": [0], "prompt": "p"})
            tokens = {"sequence_id": 0, "position": np.arange(4, dtype=np.int32), "stack": "decoder"}
            segment.append("token_steps", tokens)
        run.finish()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = Lake.create(tmp_path_factory.mktemp("links") / "lake")
    write_run(lake, RUN)
    write_run(lake, "other-run")
    return lake.path


@pytest.fixture
def lake(sound: Path, tmp_path: Path) -> Lake:
    shutil.copytree(sound, tmp_path / "lake")
    return Lake.open(tmp_path / "lake")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the lake that must stay as it is, shaped like what a lake would delete."""
    for name in (f"run={RUN}/part-w0-000009-0123abcd.parquet", "x/old.trash", "w0/x.part", "commits/w0-000000.json"):
        path = tmp_path / "outside" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"precious")
        os.utime(path, (0, 0))
    return tmp_path / "outside"


PLACES = (
    "data", "data/token_steps", "data/linked", f"data/token_steps/run={RUN}", f"data/token_steps/run={RUN}/inner",
    "_trash", "_trash/20200101T000000Z-rm-x", "_staging", f"_staging/{RUN}", "_staging/x", "_runs", f"_runs/{RUN}",
    f"_runs/{RUN}/commits", f"_runs/{RUN}/ends", "_locks",
)  # fmt: skip


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


VERBS: dict[str, Callable[[Lake], object]] = {
    "rm": lambda lake: lake.remove(RUN, dry_run=False),
    "rm --now": lambda lake: lake.remove(RUN, dry_run=False, now=True),
    "vacuum": lambda lake: lake.vacuum(0, dry_run=False),
    "collect": lambda lake: write_run(lake, "new-run"),
    "resume": lambda lake: lake.resume_run(RUN).close(),
    "verify": lambda lake: lake.verify("deep"),
    "sql": lambda lake: lake.sql("select count(*) from token_steps"),
    "scan": lambda lake: lake.scan("token_steps").collect(),
    "runs": lambda lake: lake.runs(),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_verb_leaves_the_lake_through_a_link(lake: Lake, outside: Path, place: str) -> None:
    link = lake.path / place
    if link.is_dir():
        shutil.rmtree(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    before, refusals = everything(outside), 0
    for verb in VERBS.values():
        try:
            verb(lake)
        except LakeError:
            refusals += 1
        assert everything(outside) == before and link.is_symlink()
    seen = lake.verify("quick").problems if place not in ("_runs", "data") else [place]
    assert refusals or seen, "nobody noticed the link"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("what", ["data file", "record", "run.json", "tombstone", "lake.json"])
def test_what_is_no_file_is_refused_and_never_waited_for(lake: Lake, tmp_path: Path, kind: str, what: str) -> None:
    names = {"record": f"_runs/{RUN}/commits/w0-000000.json", "run.json": f"_runs/{RUN}/run.json",
             "tombstone": f"_runs/{RUN}/tombstone.json", "lake.json": "lake.json"}  # fmt: skip
    path = next((lake.path / "data/token_steps" / f"run={RUN}").iterdir())
    path = lake.path / names[what] if what in names else path
    if path.exists():
        path.rename(tmp_path / "moved")
    else:
        (tmp_path / "moved").write_bytes(b"{}")
    if kind == "link":
        path.symlink_to(tmp_path / "moved")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    if what == "lake.json":
        with pytest.raises(DamageError):
            Lake.open(lake.path)
        return
    if what == "data file":
        for read in (
            lambda: lake.sql(f"from token_steps where run_id = '{RUN}'"),
            lambda: lake.scan("token_steps", RUN),
        ):
            with pytest.raises(DamageError, match=path.name):
                read()
        assert lake.sql("select distinct run_id from token_steps").rows() == [("other-run",)]
        assert lake.sql("select count(*) from sequences").item() == 2
    else:
        with pytest.raises(DamageError, match=RUN):
            lake.snapshot(RUN)
        assert lake.sql("select distinct run_id from token_steps").rows() == [("other-run",)]
    assert {problem.run_id for problem in lake.verify("full").problems} == {RUN}


def test_folders_on_other_disks_are_named_when_a_writer_opens(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(lake.path / "data")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs privileges")
    try:
        with pytest.raises(ConfigError, match="do not lie on one disk"):
            lake.start_run("new-run", {})
        assert lake.runs() == []
    finally:
        subprocess.run(["umount", lake.path / "data"], check=True)
