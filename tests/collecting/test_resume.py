"""An interrupted and resumed run equals an uninterrupted one, bit for bit; a kill loses only the open segment."""

import json
import os
import random
import signal
import time
from pathlib import Path

import polars as pl
import pytest
from compared_tables import compared_tables
from warm_processes import WarmProcess, start_lake

import tracelake
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Callbacks, Collection, resume_run
from tracelake.lake import TABLES, Lake
from tracelake.lake.errors import ConfigError, StoppedError

NOT_COMPARED = {"run_id", "latency_ms", "created_at", "finished_at"}
SETTINGS = {
    "dataset": "tinymath:test",
    "limit": 16,
    "samples": 2,
    "max_new_tokens": 24,
    "batch_size": 4,
    "seed": 7,
    "device": "cpu",
    "keep": ("tokens", "layers", "heads", "activations:resid_post@0,-1", "activations:z@2:last"),
}


def rows(lake: Lake, table: str, run_id: str) -> pl.DataFrame:
    frame = lake.scan(table, run=run_id).collect()
    key = [name for name in TABLES[table].key if name != "run_id"]
    return frame.drop([name for name in NOT_COMPARED if name in frame.columns]).sort(key)


def assert_same_run(first: tuple[Lake, str], second: tuple[Lake, str]) -> None:
    compared = 0
    for table in compared_tables(first[0], second[0]):
        a, b = rows(first[0], table.name, first[1]), rows(second[0], table.name, second[1])
        assert a.equals(b, null_equal=True), f"{table.name} differs after resuming"
        compared += a.height
    assert compared > 10_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, str]:
    """An uninterrupted run of SETTINGS, made in a process of its own with one thread."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder)
    assert process.wait(120) == 0, log(folder).read_text()
    lake = Lake.open(folder)
    return lake, lake.resolve_run("latest")


def start(folder: Path, *extra: str) -> WarmProcess:
    words = ["collect", "--lake", folder, *extra]
    if not extra:
        for name, value in SETTINGS.items():
            for one in value if isinstance(value, tuple) else (value,):
                words += [f"--{name.replace('_', '-')}", one]
    return start_lake(*words, stderr=log(folder))


def log(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.log"


def committed(folder: Path) -> int:
    """How many commits there are; asked often, while the run that makes them needs the processor."""
    try:
        commits = [
            name for run in os.listdir(folder / "_runs") for name in os.listdir(folder / "_runs" / run / "commits")
        ]
    except FileNotFoundError:
        return 0
    return sum(name.endswith(".json") for name in commits)


@pytest.mark.parametrize("most", [3, pytest.param(1000, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed(whole: tuple[Lake, str], tmp_path: Path, most: int) -> None:
    random.seed(3)
    process = start(tmp_path)
    kills = 0
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        before = committed(tmp_path)
        while process.poll() is None and (committed(tmp_path) < before + 2 or kills == most):
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert Lake.open(tmp_path).verify("full").ok
        process = start(tmp_path, "--resume", "latest")
    assert process.poll() == 0, log(tmp_path).read_text()
    assert kills >= 2
    lake = Lake.open(tmp_path)
    assert lake.run_status("latest") == "complete"
    assert lake.verify("deep").ok
    assert_same_run(whole, (lake, lake.resolve_run("latest")))


def test_interrupt_ends_resumable(whole: tuple[Lake, str], tmp_path: Path) -> None:
    process = start(tmp_path)
    while process.poll() is None and committed(tmp_path) < 1:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 7, log(tmp_path).read_text()
    assert "lake collect --resume" in log(tmp_path).read_text()
    lake = Lake.open(tmp_path)
    assert lake.run_status("latest") == "interrupted"
    again = start(tmp_path, "--resume", "latest")
    assert again.wait(300) == 0
    assert_same_run(whole, (lake, lake.resolve_run("latest")))


def small(**changes: object) -> CollectConfig:
    settings = {"prompt": ("one", "two and two", "three"), "max_new_tokens": 3, "segment_items": 1}
    return CollectConfig(**settings | changes)


def test_resuming_a_complete_run_does_nothing(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    run_id = Collection(small()).start(lake).run_id
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*.json"))
    assert resume_run(lake, run_id) is None
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*.json")) == before


def stop_after_first_segment(lake: Lake, config: CollectConfig) -> str:
    done = []
    callbacks = Callbacks(lambda p: done.append(p.segments_done), should_stop=lambda: bool(done) and done[-1] >= 1)
    with pytest.raises(StoppedError):
        Collection(config, callbacks).start(lake)
    return lake.resolve_run("latest")


def test_changed_prompts_are_refused(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": text}) for text in ("one", "two", "three")))
    run_id = stop_after_first_segment(lake, small(prompt=(), prompts=str(file)))
    file.write_text("\n".join(json.dumps({"prompt": text}) for text in ("one", "2", "three")))
    with pytest.raises(ConfigError, match="prompts have changed"):
        resume_run(lake, run_id, prompts=str(file))
    assert lake.run_status(run_id) == "interrupted"


def test_max_bytes_stops_cleanly_and_resumes(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    with pytest.raises(StoppedError, match="max-bytes"):
        Collection(small(max_bytes=1)).start(lake)
    run_id = lake.resolve_run("latest")
    assert lake.sql("select count(*) n from sequences").item() == 1
    assert lake.runs()[0]["status"] == "interrupted"
    result = resume_run(lake, run_id)
    assert result is not None and result.n_sequences == 3
    assert lake.run_status(run_id) == "complete"


def test_rows_are_visible_while_a_run_is_written(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    seen: list[tuple[str, int]] = []

    def look(progress: object) -> None:
        reader = tracelake.open(tmp_path)
        seen.append((reader.runs()[0]["status"], reader.sql("select count(*) n from sequences").item()))

    Collection(small(), Callbacks(on_progress=look)).start(lake)
    assert {status for status, _ in seen} == {"running"}
    counts = [n for _, n in seen]
    assert counts == sorted(counts) and set(counts) > {0, 3}  # a segment is sealed while the next one is collected
