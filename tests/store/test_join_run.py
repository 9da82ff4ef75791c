"""Several writers of one run: whoever comes first starts it, the others join, and the rows are those of one writer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.collect.running.planning.plan import Plan
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LockedError, NotFoundError, UsageError

N_SEGMENTS, WORLD = 10, 4
ABOUT = {"kind": "experiment", "plan": {"segments": [[i, i + 1] for i in range(N_SEGMENTS)]}}
RANK = f"""
import sys
import numpy as np
from tracelake.lake.lake import Lake

root, rank = sys.argv[1], int(sys.argv[2])
with Lake.open(root).join_run("shared-run", {ABOUT!r}, f"w{{rank}}") as run:
    for index in range(rank, {N_SEGMENTS}, {WORLD}):
        with run.segment(index, (index, index + 1)) as segment:
            position = np.arange(50, dtype=np.int32)
            segment.append("sequences", {{"sequence_id": index, "prompt": str(index)}})
            segment.append("token_steps", {{"sequence_id": index, "position": position, "stack": "decoder"}})
    run.finish()
"""


def test_four_processes_start_and_join_one_run(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    command = [sys.executable, "-c", RANK, str(lake.path)]
    ranks = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE) for rank in range(WORLD)]
    for process in ranks:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    log = lake.snapshot().runs["shared-run"]
    assert log.outcome == "complete" and log.committed == set(range(N_SEGMENTS)) and len(log.chains) == WORLD
    assert lake.verify("deep").ok and lake.runs()[0]["status"] == "complete"
    rows = lake.scan("token_steps").select("sequence_id", "position").sort("sequence_id", "position").collect()
    assert rows["sequence_id"].to_list() == np.repeat(np.arange(N_SEGMENTS), 50).tolist()
    assert rows["position"].to_list() == list(range(50)) * N_SEGMENTS


def test_joining_is_idempotent_and_guarded(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    first = lake.join_run("shared-run", ABOUT, "w0")
    with pytest.raises(LockedError):
        lake.join_run("shared-run", ABOUT, "w0")
    with pytest.raises(ConfigError, match="plan of its run.json differ"):
        lake.join_run("shared-run", ABOUT | {"plan": {"segments": [[0, 1]]}}, "w1")
    with first.segment(0, (0, 1)) as segment:
        segment.append("sequences", {"sequence_id": 0, "prompt": "p"})
    first.close()
    again = lake.join_run("shared-run", ABOUT, "w0")
    assert again.committed == {0} and lake.run_status("shared-run") == "running"
    again.close()
    lake.remove("shared-run", dry_run=False)
    with pytest.raises(NotFoundError, match="removed"):
        lake.join_run("shared-run", ABOUT, "w2")


def test_every_segment_is_in_one_share() -> None:
    plan = Plan([[i, i + 1] for i in range(11)], 11, 11, 11, 1, 1, 1, 1, {})
    shares = [plan.share(rank, 4) for rank in range(4)]
    assert sorted(index for share in shares for index in share) == list(range(11))
    for rank, world in ((4, 4), (-1, 4), (0, 0)):
        with pytest.raises(UsageError, match="Rank"):
            plan.share(rank, world)


COLLECT = """
import sys
import torch
torch.set_num_threads(1)
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake

config = CollectConfig(**{config!r})
Collection(config).join(Lake.open(sys.argv[1]), "shared-run", int(sys.argv[2]), {world})
"""


@pytest.mark.slow
def test_four_collectors_of_one_run_give_the_rows_of_one(tmp_path: Path) -> None:
    config = {"prompt": [f"What is {i} + {2 * i}?" for i in range(10)], "max_new_tokens": 4, "samples": 2,
              "temperature": 0.8, "segment_items": 1, "device": "cpu"}  # fmt: skip
    lake = Lake.create(tmp_path / "lake")
    command = [sys.executable, "-c", COLLECT.format(config=config, world=WORLD), str(lake.path)]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(WORLD)]
    assert [process.wait() for process in ranks] == [0] * WORLD
    alone = Collection(CollectConfig(**config)).start(lake).run_id
    assert lake.run_status("shared-run") == "complete" == lake.run_status(alone) and lake.verify("deep").ok
    for table in ("sequences", "token_steps", "layer_summaries", "head_summaries", "activations"):
        one, several = (
            lake.scan(table, run).drop("run_id", *({"latency_ms"} if table == "token_steps" else ()))
            for run in (alone, "shared-run")
        )
        key = [name for name in one.collect_schema().names() if name in ("sequence_id", "position", "layer", "head")]
        assert isinstance(one, pl.LazyFrame) and one.sort(key, maintain_order=True).collect().equals(
            several.sort(key, maintain_order=True).collect()
        ), table
