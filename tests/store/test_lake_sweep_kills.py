"""Removing and sweeping, killed at every operation: the removed run is removed, every other run is readable."""

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mortal_disk import Killed, MortalDisk

from tracelake.lake import Lake
from tracelake.lake.errors import LakeError
from tracelake.lake.storage.local import LocalStore

GOING, STAYING = "going-run", "staying-run"


def write_run(lake: Lake, run_id: str) -> None:
    with lake.start_run(run_id, {"plan": {"segments": [[i, i + 1] for i in range(3)]}}) as run:
        for index in range(3):
            with run.segment(index, (index, index + 1)) as segment:
                segment.append("sequences", {"sequence_id": [index], "prompt": f"canary of {run_id}"})
        run.finish()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = Lake.create(tmp_path_factory.mktemp("sweep") / "lake")
    for run_id in (GOING, STAYING):
        write_run(lake, run_id)
    return lake.path


def sweep(lake: Lake, verb: str) -> None:
    if verb == "vacuum":
        lake.remove(GOING, dry_run=False)
        lake.vacuum(0, dry_run=False)
    else:
        lake.remove(GOING, dry_run=False, now=verb == "rm --now")


@pytest.mark.parametrize("verb", ["rm", "rm --now", "vacuum"])
def test_killed_at_every_operation(sound: Path, tmp_path: Path, verb: str) -> None:
    at, finished = 0, False
    while not finished:
        at += 1
        root = tmp_path / f"lake{at}"
        shutil.copytree(sound, root)
        try:
            sweep(Lake.open(root, store=LocalStore(root, MortalDisk(root, at))), verb)
            finished = True
        except Killed:
            pass
        lake = Lake.open(root)
        counts = dict(lake.sql("select run_id, count(*) from sequences group by all").rows())
        assert counts.pop(STAYING) == 3, f"step {at}"
        statuses = {row["run_id"]: row["status"] for row in lake.runs()}
        buried = (root / "_runs" / GOING / "tombstone.json").exists()
        assert counts == ({} if buried else {GOING: 3}) and statuses.get(GOING) in (
            (None, "removed") if buried else ("complete",)
        ), f"step {at}"
        assert lake.verify("deep").ok, f"step {at}"
        if buried:
            lake.vacuum(0, dry_run=False)
            left = [
                path
                for path in root.rglob("*")
                if path.is_file() and f"canary of {GOING}".encode() in path.read_bytes()
            ]
            assert not left and lake.verify("deep").ok, f"step {at}"
        shutil.rmtree(root)
    assert at > 20


def test_vacuum_beside_a_collector(tmp_path: Path) -> None:
    """A sweep that never rests, over leftovers that look old, takes nothing that a writer is writing."""
    lake = Lake.create(tmp_path / "lake")
    stop = threading.Event()

    def sweeping() -> None:
        while not stop.is_set():
            for path in list((lake.path / "_staging").rglob("*.part")) + list((lake.path / "data").rglob("*.parquet")):
                try:
                    os.utime(path, (0, 0))
                except FileNotFoundError:
                    continue
            try:
                Lake.open(lake.path).vacuum(0, dry_run=False)
            except FileNotFoundError:
                continue

    sweeper = threading.Thread(target=sweeping)
    sweeper.start()
    try:
        until, number = time.monotonic() + 3, 0
        while time.monotonic() < until or number < 3:
            with lake.start_run(f"run-{number}", {}) as run:
                for index in range(3):
                    with run.segment(index, (index, index + 1), buffer_bytes=100) as segment:
                        for item in range(4):
                            columns = {
                                "sequence_id": item,
                                "position": np.arange(50, dtype=np.int32),
                                "stack": "decoder",
                            }
                            segment.append("token_steps", columns)
                run.finish()
            number += 1
    finally:
        stop.set()
        sweeper.join()
    assert lake.verify("deep").ok and lake.sql("select count(*) from token_steps").item() == number * 600


def test_a_look_at_the_lease_makes_no_run_running(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.start_run("stopped", {}).close()
    seen: list[str] = []
    stop = threading.Event()
    readers = [threading.Thread(target=lambda: [Lake(lake.path).run_status("stopped") for _ in iter(stop.is_set, True)])
               for _ in range(3)]  # fmt: skip
    for reader in readers:
        reader.start()
    seen = [lake.run_status("stopped") for _ in range(300)]
    stop.set()
    for reader in readers:
        reader.join()
    assert set(seen) == {"interrupted"}
    with lake.resume_run("stopped"):
        assert lake.run_status("stopped") == "running"


def test_a_removed_run_stays_removed_whatever_is_left_of_its_records(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "lake")
    lake = Lake.open(tmp_path / "lake")
    lake.remove(GOING, dry_run=False)
    for path in sorted((lake.path / "_runs" / GOING / "commits").iterdir()):
        path.unlink()
        assert {row["run_id"]: row["status"] for row in lake.runs()} == {GOING: "removed", STAYING: "complete"}
    with pytest.raises(LakeError, match="removed"):
        lake.resume_run(GOING)


def test_killed_while_it_tries_the_folders_nothing_is_damaged_and_all_is_swept(sound: Path, tmp_path: Path) -> None:
    left, at, finished = set(), 0, False
    while not finished:
        at += 1
        root = tmp_path / str(at)
        shutil.copytree(sound, root)
        try:
            LocalStore(root, MortalDisk(root, at)).check_writable()
            finished = True
        except Killed:
            pass
        lake = Lake.open(root)
        report = lake.verify("deep")
        assert report.ok, (at, report.problems)
        probes = list(root.rglob("probe-*"))
        noted = [note.path for note in report.notes if "probe-" in note.path]
        assert noted == [name for one in probes if not (name := str(one.relative_to(root))).startswith("_staging")]
        for probe in probes:
            left.add(probe.parent.name)
            os.utime(probe, (0, 0))
        lake.vacuum(30, dry_run=False)
        assert list(root.rglob("probe-*")) == [], at
        assert lake.verify("deep").notes == []
    assert left == {"_staging", "data", "_trash", "_runs"}
