"""Segments sealed beside the next one's collection: the same order, the same promises, at most one waits."""

import errno
import threading
from pathlib import Path

import numpy as np
import pytest

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection, resume_run
from tracelake.lake import Lake
from tracelake.lake.errors import DiskFullError, LakeError, UsageError
from tracelake.lake.storage.disk import Disk
from tracelake.lake.storage.local import LocalStore
from tracelake.lake.writing.writer import RunWriter

PLAN = {"plan": {"segments": [[0, 1], [1, 2], [2, 3]]}}
CONFIG = CollectConfig(
    prompt=("one", "two and two", "three"), max_new_tokens=4, segment_items=1, keep=("tokens,activations:resid_post",)
)


def fill(run: RunWriter, index: int) -> None:
    segment = run.segment(index, (index, index + 1))
    segment.append("sequences", {"sequence_id": np.array([index]), "prompt": "p"})
    columns = {"sequence_id": np.full(20, index), "position": np.arange(20, dtype=np.int32), "stack": "decoder"}
    vectors = np.full((20, 8), index, np.float32)
    segment.append_vectors("activations", layer=0, site="z", columns=columns, vectors=vectors, dtype="float32")


class FullDisk(Disk):
    """The real disk, full from the commit record of segment `at` on."""

    def __init__(self, root: Path, at: int) -> None:
        super().__init__(root)
        self.at = at

    def link(self, source: str, target: str) -> None:
        if target.endswith(f"w0-{self.at:06d}.json"):
            raise OSError(errno.ENOSPC, "injected", target)
        super().link(source, target)


def test_a_segment_is_filled_while_the_one_before_is_sealed(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    with lake.start_run("beside", PLAN) as run:
        fill(run, 0)
        first = run.hand_over()
        fill(run, 1)
        with pytest.raises(UsageError, match="segment 0 is being sealed"):
            run.hand_over()
        assert run.committed == frozenset()
        sealing = threading.Thread(target=first.seal)
        sealing.start()
        sealing.join()
        assert run.committed == {0}
        run.hand_over().seal()
        fill(run, 2)
        run.hand_over().seal()
        run.finish()
    assert lake.verify("deep").ok and lake.run_status("beside") == "complete"
    assert [values.max() for *_, values in lake.vectors(0, "z", run="beside")] == [0.0, 1.0, 2.0]
    parts = sorted(path.name.split("-")[2] for path in tmp_path.glob("data/sequences/run=beside/*.parquet"))
    assert parts == ["000000", "000001", "000002"]


def test_after_a_sealing_that_failed_nothing_goes_on(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path, store=LocalStore(tmp_path, FullDisk(tmp_path, 0)))
    with lake.start_run("full", PLAN) as run:
        fill(run, 0)
        first = run.hand_over()
        fill(run, 1)
        with pytest.raises(DiskFullError):
            first.seal()
        second = run.hand_over()
        with pytest.raises(LakeError, match="Segment 0 of run full could not be written"):
            run.segment(2, (2, 3))
        second.abandon()
    assert not list(tmp_path.rglob("*.parquet"))
    lake = Lake.open(tmp_path)
    with lake.resume_run("full") as run:
        for index in range(3):
            fill(run, index)
            run.hand_over().seal()
        run.finish()
    assert lake.verify("deep").ok


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_full_disk_stops_the_run_and_resuming_gives_the_same_rows(tmp_path: Path, at: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = Collection(CONFIG).start(Lake.create(whole))
    lake = Lake.create(broken, store=LocalStore(broken, FullDisk(broken, at)))
    with pytest.raises(DiskFullError, match="free some room"):
        Collection(CONFIG).start(lake)
    lake = Lake.open(broken)
    run_id = lake.resolve_run("latest")
    assert lake.run_status(run_id) == "interrupted"
    assert lake.sql("select count(*) from sequences").item() == at
    resumed = resume_run(lake, run_id)
    assert resumed is not None and resumed.n_sequences == 3 and lake.verify("deep").ok
    query = "select * exclude (run_id, latency_ms) from token_steps where run_id = ? order by sequence_id, position"
    assert lake.sql(query, [run_id]).equals(Lake.open(whole).sql(query, [expected.run_id]))
    vectors = [
        np.concatenate([values for *_, values in a_lake.vectors(5, "resid_post", run=a_run)])
        for a_lake, a_run in ((lake, run_id), (Lake.open(whole), expected.run_id))
    ]
    assert np.array_equal(*vectors)


def test_what_was_waited_for_is_timed_apart_from_what_was_sealed_beside(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    Collection(CONFIG).start(lake)
    rows = lake.sql("select name, parent, sum(count) as n, sum(total_ms) as ms from operations group by all")
    times = {name: (parent, n, ms) for name, parent, n, ms in rows.rows()}
    # The last of three segments cannot hold its own sealing, and the one before may still be under way.
    assert times["seal"][0] == "beside" and 1 <= times["seal"][1] <= 2 and times["write"][0] is None
    assert 0 <= times["write"][2] <= times["seal"][2] + 1
