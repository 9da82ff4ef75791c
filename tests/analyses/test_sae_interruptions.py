"""Trainings that are killed, and trainings on a disk that fills: nothing half published, resumed bit for bit."""

import gc
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from failing_disk import FailingDisk
from mortal_disk import Killed, MortalDisk
from sae_lakes import lake_of, write_planted
from safetensors.torch import load
from warm_processes import piped

from tracelake.analysis.sae.training.options import TrainOptions
from tracelake.analysis.sae.training.trainer import Trained, resume_training, start_training
from tracelake.lake import Lake
from tracelake.lake.errors import DiskFullError, StoppedError
from tracelake.lake.storage.local import LocalStore

OPTIONS: dict[str, Any] = {
    "archs": ("topk", "batchtopk"), "widths": ("32",), "ks": (3,), "tokens": 3000, "batch_size": 256, "commits": 3,
    "window": 1024, "lr": 3e-3, "dead_after": 500,
}  # fmt: skip
VARYING = ("run_id", "sae_id", "tokens_per_s", "wait_share")
KILLED = """
import sys
from tracelake.analysis.sae.training.options import TrainOptions
from tracelake.analysis.sae.training.trainer import resume_training, start_training
from tracelake.lake import Lake

lake, options = Lake.open(sys.argv[1]), eval(sys.argv[2])
print("ready", flush=True)
if sys.argv[3:]:
    resume_training(lake, sys.argv[3])
else:
    start_training(lake, ["read-0"], TrainOptions(**options))
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """A lake with an uninterrupted training."""
    lake = lake_of(tmp_path_factory.mktemp("lake") / "lake")
    return lake.path, start_training(lake, ["read-0"], TrainOptions(**OPTIONS))


def check_equal(lake: Lake, whole: Trained, again: str) -> None:
    """Rows and every file of the folders are those of the uninterrupted training."""
    rows = [
        lake.scan("sae_training", run).collect().sort("sae_id", "step").drop(VARYING) for run in (whole.run_id, again)
    ]
    assert rows[0].equals(rows[1])
    ids = [lake.scan("saes", run).collect().sort("arch")["sae_id"].to_list() for run in (whole.run_id, again)]
    assert len(ids[0]) == len(ids[1]) == len(whole.sae_ids)
    for one, other in zip(*ids, strict=True):
        for suffix in ("", ".last"):
            name = f"{suffix}/sae_weights.safetensors"
            first, second = load(lake.blob(whole.run_id, one + name)), load(lake.blob(again, other + name))
            assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def check_whole(lake: Lake, where: str) -> str | None:
    """Commits are there whole or not at all; gives the training that is not complete, if one is."""
    report = lake.verify("deep")
    assert report.ok, f"{where}: {report.problems}"
    for row in lake.runs():
        if row["kind"] == "sae":
            committed = lake.scan("sae_training", row["run_id"]).collect()
            validated = committed.filter(pl.col("validation_fvu").is_not_null())
            assert validated.height % 2 == 0, where  # a row of both autoencoders for every commit
            assert lake.scan("saes", row["run_id"]).collect().height in (0, 2), where
            if row["status"] != "complete":
                assert row["status"] == "interrupted", where
    broken = [row["run_id"] for row in lake.runs() if row["kind"] == "sae" and row["status"] == "interrupted"]
    return broken[0] if broken else None


def trained_anyway(lake: Lake, whole: Trained) -> str:
    """Resume what is interrupted, or start where nothing had begun."""
    broken = check_whole(lake, "before resuming")
    if broken is not None:
        resume_training(lake, broken)
        return broken
    others = [row["run_id"] for row in lake.runs() if row["kind"] == "sae" and row["run_id"] != whole.run_id]
    return others[0] if others else start_training(lake, ["read-0"], TrainOptions(**OPTIONS)).run_id


def through(
    sound: tuple[Path, Trained], folder: Path, every: int, disk: Callable[[Path, int], Any], error: type[BaseException]
) -> int:
    """Train on disks that give up at every `every`-th operation; how many trainings were cut short."""
    path, whole = sound
    at, n_cut, finished = 1 - every, 0, False
    while not finished:
        at += every
        root = folder / str(at) / "lake"
        shutil.copytree(path, root)
        try:
            broken = Lake.open(root, store=LocalStore(root, disk(root, at)))
            start_training(broken, ["read-0"], TrainOptions(**OPTIONS))
            finished = True
        except error:
            n_cut += 1
            gc.collect()  # the lease of a dead process is free
        lake = Lake.open(root)
        again = trained_anyway(lake, whole)
        check_whole(lake, f"operation {at}")
        check_equal(lake, whole, again)
        shutil.rmtree(folder / str(at))
    return n_cut


@pytest.mark.parametrize("every", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_operation_of_the_disk(sound: tuple[Path, Trained], tmp_path: Path, every: int) -> None:
    assert through(sound, tmp_path, every, MortalDisk, Killed) >= 2


@pytest.mark.parametrize("every", [101, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_from_any_operation_on(sound: tuple[Path, Trained], tmp_path: Path, every: int) -> None:
    def full(root: Path, at: int) -> FailingDisk:
        return FailingDisk(root, at, stays=True)

    assert through(sound, tmp_path, every, full, DiskFullError) >= 2


@pytest.mark.parametrize("moments", [(3,), pytest.param((2, 5, 9, 20), marks=pytest.mark.slow)])
def test_killed_between_commits(tmp_path: Path, moments: tuple[int, ...]) -> None:
    """SIGKILL of a real process once so many commits are there, resumed by another, killed again."""
    lake, last = lake_of(tmp_path / "lake"), max(moments) + 10
    options = OPTIONS | {"tokens": 2_000 * last, "commits": last}
    whole = start_training(lake, ["read-0"], TrainOptions(**options))
    broken: list[str] = []
    for n_commits in moments:
        with piped(KILLED, lake.path, repr(options), *broken) as (process, output):
            assert output.readline() == b"ready\n"
            deadline = time.monotonic() + 60
            while _n_commits(lake, whole) < n_commits and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            assert process.poll() is None, "the training ended before it could be killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
        found = check_whole(lake, f"killed after {n_commits} commits")
        assert found is not None and n_commits <= _n_commits(lake, whole) < last
        broken = [found]
    resume_training(lake, broken[0])
    check_equal(lake, whole, broken[0])
    assert lake.verify("deep").ok


def test_a_run_that_grows_meanwhile_is_read_as_it_was(tmp_path: Path) -> None:
    """Trained on one segment, stopped; a second one comes; what is resumed does not see it."""
    lake, rng = Lake.create(tmp_path), np.random.default_rng(3)
    calls = iter(range(1000))
    with lake.start_run("read-0", {"kind": "read", "model": {"name": "m", "n_layers": 2}}) as run:
        write_planted(run, 0, rng)
        whole = start_training(lake, ["read-0"], TrainOptions(**OPTIONS))
        with pytest.raises(StoppedError):
            start_training(lake, ["read-0"], TrainOptions(**OPTIONS), should_stop=lambda: next(calls) >= 6)
        write_planted(run, 1, rng)
        run.finish()
    broken = next(row["run_id"] for row in lake.runs() if row["status"] == "interrupted")
    resume_training(lake, broken)
    check_equal(lake, whole, broken)
    later = start_training(lake, ["read-0"], TrainOptions(**OPTIONS))
    assert later.validation_fvu != whole.validation_fvu


def _n_commits(lake: Lake, whole: Trained) -> int:
    """Commits of the training that is not `whole`."""
    runs = [path for path in (lake.path / "_runs").iterdir() if path.name not in (whole.run_id, "read-0")]
    folders = [run / "commits" for run in runs if (run / "commits").is_dir()]
    return sum(name.endswith(".json") for folder in folders for name in os.listdir(folder))
