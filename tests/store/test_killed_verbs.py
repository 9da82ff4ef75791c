"""Every verb that writes, killed at every disk operation: others stay readable, nothing is torn, it can be repeated."""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mortal_disk import Killed, MortalDisk

from tracelake.lake import Lake
from tracelake.lake.analyses import commit_analysis, remove_analysis
from tracelake.lake.derived import Analysis
from tracelake.lake.exchange.interfaces.imports import ImportChoices, Responses, check_logs, import_logs
from tracelake.lake.exchange.labels import import_labels
from tracelake.lake.storage.local import LocalStore

STAYING, NEW, ENDED = "staying-run", "new-run", "ended-run"
PLAN = {"plan": {"segments": [[0, 1], [1, 2]]}}
ANALYSIS = Analysis(STAYING, "trajectory", {"x": 1}, "0" * 16)
ROW = {"analysis_id": ANALYSIS.analysis_id, "name": "trajectory", "parameters": "{}", "snapshot": "0"}


def write(run, index: int) -> None:
    with run.segment(index, (index, index + 1)) as segment:
        segment.append("sequences", {"sequence_id": [index], "item_id": str(index), "prompt": "p"})
        position = np.arange(60, dtype=np.int32)
        segment.append("token_steps", {"sequence_id": index, "position": position, "stack": "decoder"})
        segment.add_blob(f"b{index}.json", b"{}")


def finish(run) -> None:
    with run:
        for index in sorted({0, 1} - run.committed):
            write(run, index)
        if not run.finished:
            run.finish()


def collect(lake: Lake, folder: Path) -> None:
    finish(lake.join_run(NEW, PLAN, "w0"))


def resume(lake: Lake, folder: Path) -> None:
    finish(lake.resume_run(ENDED))


def analyze(lake: Lake, folder: Path) -> None:
    commit_analysis(lake, ANALYSIS, {"analyses": ROW})


def analyze_rm(lake: Lake, folder: Path) -> None:
    if lake.analyses():
        remove_analysis(lake, ANALYSIS.analysis_id, dry_run=False, now=True)


def labels(lake: Lake, folder: Path) -> None:
    (folder / "labels.csv").write_text("item_id,correct\n0,true\n1,false\n")
    import_labels(lake, folder / "labels.csv", STAYING, name="mine")


def logprobs(lake: Lake, folder: Path) -> None:
    content = [{"token": "a", "logprob": -0.1, "bytes": None, "top_logprobs": []}] * 50
    choice = {"index": 0, "message": {"content": "a" * 50}, "logprobs": {"content": content}, "finish_reason": "stop"}
    (folder / "log.json").write_text(json.dumps({"id": "1", "model": "m", "choices": [choice]}))
    read, choices = Responses(None, processed=False), ImportChoices()
    import_logs(lake, check_logs([folder / "log.json"], read, choices), read, choices)


def rm(lake: Lake, folder: Path) -> None:
    if ENDED in {row["run_id"] for row in lake.runs() if row["status"] != "removed"}:
        lake.remove(ENDED, dry_run=False)


def rm_now(lake: Lake, folder: Path) -> None:
    if ENDED in lake.snapshot().runs:
        lake.remove(ENDED, dry_run=False, now=True)


def vacuum(lake: Lake, folder: Path) -> None:
    rm(lake, folder)
    lake.vacuum(0, dry_run=False)


VERBS: dict[str, Callable[[Lake, Path], None]] = {
    "collect": collect, "collect --resume": resume, "analyze": analyze, "analyze rm --now": analyze_rm,
    "import labels": labels, "import logprobs": logprobs, "rm": rm, "rm --now": rm_now, "vacuum": vacuum,
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = Lake.create(tmp_path_factory.mktemp("killed") / "lake")
    finish(lake.start_run(STAYING, PLAN))
    with lake.start_run(ENDED, PLAN) as run:
        write(run, 0)
    analyze(lake, lake.path)
    return lake.path


def check(lake: Lake, where: str) -> None:
    """The run that nobody touched is whole; of the others each segment is there whole or not at all."""
    counts = dict(lake.sql("select run_id, count(*) from token_steps group by all").rows())
    assert counts[STAYING] == 120, where
    assert all(n % 50 == 0 or n % 60 == 0 for n in counts.values()), where
    report = lake.verify("deep")
    assert report.ok, f"{where}: {report.problems}"


@pytest.mark.parametrize(
    ("verb", "every"), [("analyze", 9), *(pytest.param(verb, 1, marks=pytest.mark.slow) for verb in VERBS)]
)
def test_killed_at_every_operation(sound: Path, tmp_path: Path, verb: str, every: int, record_property) -> None:
    at, n_kills, finished = 1 - every, 0, False
    while not finished:
        at += every
        folder = tmp_path / str(at)
        root = folder / "lake"
        shutil.copytree(sound, root)
        if verb == "analyze":
            analyze_rm(Lake.open(root), folder)
        try:
            VERBS[verb](Lake.open(root, store=LocalStore(root, MortalDisk(root, at))), folder)
            finished = True
        except Killed:
            n_kills += 1
            gc.collect()  # the lease of a dead process is free
        lake = Lake.open(root)
        check(lake, f"{verb}, step {at}")
        VERBS[verb](lake, folder)
        check(lake, f"{verb} again after step {at}")
        shutil.rmtree(folder)
    record_property("kills", n_kills)
    assert n_kills >= 5
