"""Errors of the disk at every single operation: the lake stays whole, says so, and the run can be resumed."""

import errno
import subprocess
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from failing_disk import FailingDisk

from tracelake.lake.errors import ConfigError, DiskFullError, LakeError
from tracelake.lake.lake import Lake
from tracelake.lake.storage.local import LocalStore
from tracelake.lake.writing import hashed_file

RUN = "fault-run"
PLAN = {"plan": {"segments": [[0, 2], [2, 4]]}}


def write_segment(run, index):
    sequence = np.repeat(np.arange(2 * index, 2 * index + 2), 20)
    position = np.tile(np.arange(20, dtype=np.int32), 2)
    with run.segment(index, (2 * index, 2 * index + 2)) as segment:
        segment.append("sequences", {"sequence_id": np.unique(sequence), "prompt": "p"})
        columns = {"sequence_id": sequence, "position": position, "stack": "decoder"}
        segment.append("token_steps", columns)
        segment.append_vectors(
            "activations", layer=0, site="z", columns=columns, vectors=np.ones((40, 32), np.float32), dtype="float32"
        )


def whole_life(root, disk):
    """Make a lake and a run of two segments; returns what was acknowledged before an error, and the error."""
    acknowledged = set()
    try:
        lake = Lake.create(root, store=LocalStore(root, disk))
        run = lake.start_run(RUN, PLAN)
        try:
            for index in range(2):
                write_segment(run, index)
                acknowledged.add(index)
            run.finish()
        finally:
            run.close()
    except LakeError as error:
        return acknowledged, error
    return acknowledged, None


def n_operations(tmp_path):
    disk = FailingDisk(tmp_path / "count")
    assert whole_life(tmp_path / "count", disk) == ({0, 1}, None)
    return disk.steps


@pytest.mark.parametrize(
    ("code", "stays", "kind"),
    [(errno.ENOSPC, False, DiskFullError), (errno.ENOSPC, True, DiskFullError), (errno.EIO, False, LakeError)],
    ids=["full once", "full for good", "broken once"],
)
def test_every_operation_may_fail(tmp_path, code, stays, kind):
    steps = n_operations(tmp_path)
    assert steps > 60
    # Failing for good differs from failing once only in the cleaning up: a sample of it is enough.
    for at in range(1, steps + 1, 3 if stays else 1):
        root = tmp_path / f"lake{at}"
        acknowledged, error = whole_life(root, FailingDisk(root, at, code, stays=stays))
        # Cleaning up after a success may fail without harm; anything else must be told.
        assert error is None or isinstance(error, kind), f"step {at}: {error!r}"
        assert error is not None or acknowledged == {0, 1}
        if isinstance(error, DiskFullError):
            assert "free some room" in str(error) and error.exit_code == 8
        lake = Lake.create(root, store=LocalStore(root, FailingDisk(root)))
        try:
            run = lake.resume_run(RUN) if RUN in lake.snapshot().runs else lake.start_run(RUN, PLAN)
        except LakeError as again:
            raise AssertionError(f"step {at} after {error}: cannot resume: {again}") from again
        assert run.committed >= acknowledged
        assert list((lake.path / "_staging" / RUN).rglob("*.part")) == []
        if not run.finished:
            for index in sorted({0, 1} - run.committed):
                write_segment(run, index)
            run.finish()
        run.close()
        report = lake.verify("full")
        assert report.ok, f"step {at}: {report.problems}"
        assert lake.snapshot().runs[RUN].outcome == "complete"
        assert lake.scan("token_steps").collect().height == 80


class ThreadedDisk(FailingDisk):
    """Written by the store's threads; fails at the n-th write or sync of a data file, once."""

    parallel = True

    def __init__(self, root, what="", at=None):
        super().__init__(root)
        self.what, self.fails_at, self.lock, self.counts = what, at, threading.Lock(), Counter()

    def step(self, what, path):
        with self.lock:
            self.counts[what] += path.endswith(".part") and "activations" in path
            if what == self.what and path.endswith(".part") and self.counts[what] == self.fails_at:
                self.fails_at = None
                raise OSError(errno.EIO, f"injected at {what}", path)


def write_vectors(run):
    with run.segment(0, (0, 2)) as segment:
        for layer in range(2):
            columns = {"sequence_id": 0, "position": np.arange(4096, dtype=np.int32), "stack": "decoder"}
            vectors = np.full((4096, 256), layer, np.float32)
            segment.append_vectors(
                "activations", layer=layer, site="z", columns=columns, vectors=vectors, dtype="float32"
            )


@pytest.mark.parametrize("what", ["write", "sync"])
def test_an_error_in_the_threads_of_the_writer_is_told(tmp_path, monkeypatch, what):
    # A disk tells an error of what it could not store to one sync only: also if that was an early one.
    monkeypatch.setattr(hashed_file, "_SYNC_BYTES", 1 << 20)
    counting = ThreadedDisk(tmp_path / "count")
    with Lake.create(tmp_path / "count", store=LocalStore(tmp_path / "count", counting)).start_run(RUN, PLAN) as run:
        write_vectors(run)
    assert counting.counts["write"] >= 8 and counting.counts["sync"] >= 3
    fewest = {"write": 8, "sync": 3}[what]  # early syncs depend on how fast the disk is
    for at in range(1, fewest + 1):
        root = tmp_path / f"lake{at}"
        with Lake.create(root, store=LocalStore(root, ThreadedDisk(root, what, at))).start_run(RUN, PLAN) as run:
            with pytest.raises(LakeError, match="injected"):
                write_vectors(run)
            assert run.committed == set() and not list(root.rglob("*.parquet")) and not list(root.rglob("*.part"))
            write_vectors(run)
            assert run.committed == {0}
        lake = Lake.open(root)
        assert lake.verify("full").ok
        assert [matrix.mean() for layer in range(2) for _, matrix in lake.vectors(layer, "z")] == [0.0, 1.0]


def test_a_failed_segment_leaves_nothing_and_the_writer_goes_on(tmp_path):
    root = tmp_path / "lake"
    disk = FailingDisk(root)
    run = Lake.create(root, store=LocalStore(root, disk)).start_run(RUN, PLAN)
    disk.at = disk.steps + 6
    with pytest.raises(DiskFullError):
        write_segment(run, 0)
    assert not list((tmp_path / "lake").rglob("*.parquet")) and not list((tmp_path / "lake").rglob("*.part"))
    disk.at = None
    write_segment(run, 0)
    assert run.committed == {0}
    run.close()


def test_after_an_unacknowledged_commit_only_resuming_helps(tmp_path):
    root = tmp_path / "lake"
    disk = FailingDisk(root)
    run = Lake.create(root, store=LocalStore(root, disk)).start_run(RUN, PLAN)
    original = disk.sync_folder
    disk.sync_folder = lambda path: (
        (_ for _ in ()).throw(OSError(errno.EIO, "no")) if path.endswith("/commits") else None
    )
    with pytest.raises(LakeError):
        write_segment(run, 0)
    disk.sync_folder = original
    with pytest.raises(LakeError, match="resume"):
        write_segment(run, 1)
    run.close()
    with Lake.open(root).resume_run(RUN) as again:
        assert again.committed == {0}
    assert Lake.open(root).verify("deep").ok


def test_an_exception_in_the_block_drops_the_segment(tmp_path):
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run(RUN, PLAN) as run:
        with pytest.raises(KeyError), run.segment(0, (0, 2), buffer_bytes=10) as segment:
            segment.append("sequences", {"sequence_id": np.arange(2), "prompt": "p"})
            raise KeyError("the model broke")
        assert not list(lake.path.rglob("*.part")) and not list(lake.path.rglob("*.parquet"))
        assert run.committed == frozenset() and run.next_seq == 0


def test_a_really_full_disk(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs privileges")
    try:
        lake = Lake.create(small / "lake")
        run = lake.start_run(RUN, {})
        write_segment(run, 0)
        big = np.random.default_rng(0).normal(size=(4000, 128)).astype(np.float32)
        columns = {"sequence_id": np.arange(4000), "position": 0, "stack": "decoder"}
        with pytest.raises(DiskFullError), run.segment(1, (2, 4)) as segment:
            segment.append_vectors("activations", layer=0, site="z", columns=columns, vectors=big, dtype="float32")
        write_segment(run, 1)
        run.finish()
        assert lake.verify("deep").ok and lake.scan("token_steps").collect().height == 80
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_unwritable_lake_says_so(tmp_path):
    root = tmp_path / "lake"
    Lake.create(root, store=LocalStore(root, FailingDisk(root))).check_writable()
    lake = Lake.open(root, store=LocalStore(root, FailingDisk(root, 1, errno.EROFS, stays=True)))
    with pytest.raises(ConfigError, match="Not permitted"):
        lake.check_writable()
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match="file"):
        Lake.create(Path(tmp_path / "file" / "lake"))
