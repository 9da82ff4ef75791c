"""Collectors killed at random while readers look: nothing acknowledged is lost, nothing half-written is seen."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tracelake.lake.lake import Lake

SEGMENTS = 12
COLLECTOR = """
import sys
import numpy as np
from tracelake.lake.lake import Lake

root, writer = sys.argv[1:]
lake = Lake.open(root)
with lake.resume_run("killed-run", writer=writer) as run:
    for index in range(int(writer[1:]), {segments}, 2):
        if index in run.committed:
            continue
        with run.segment(index, (index, index + 1)) as segment:
            position = np.arange(200, dtype=np.int32)
            columns = {{"sequence_id": index, "position": position, "stack": "decoder"}}
            segment.append("sequences", {{"sequence_id": index, "prompt": str(index)}})
            segment.append("token_steps", columns)
            vectors = np.full((200, 64), index, np.float32)
            segment.append_vectors(
                "activations", layer=0, site="z", columns=columns, vectors=vectors, dtype="float32"
            )
        print(index, flush=True)
    if not run.finished:
        run.finish()
"""


def start(root, writer):
    code = COLLECTOR.format(segments=SEGMENTS)
    return subprocess.Popen([sys.executable, "-c", code, str(root), writer], stdout=subprocess.PIPE)


def look(lake):
    """One reader: every segment it sees is whole and the same in all tables."""
    with lake.connect() as connection:
        rows = connection.arrow(
            "select s.sequence_id, count(distinct t.position) as tokens, "
            "(select count(*) from activations a where a.sequence_id = s.sequence_id "
            "   and a.vector[1] = s.sequence_id and len(a.vector) = 64) as vectors "
            "from sequences s join token_steps t using (run_id, sequence_id) group by all"
        ).to_pylist()
    assert all(row["tokens"] == row["vectors"] == 200 for row in rows), rows
    return {row["sequence_id"] for row in rows}


def test_random_kills_with_readers(tmp_path):
    rng = random.Random(7)
    lake = Lake.create(tmp_path / "lake")
    lake.start_run("killed-run", {"plan": {"segments": [[i, i + 1] for i in range(SEGMENTS)]}}).close()
    acknowledged, kills, seen = set(), 0, set()
    working = {writer: start(lake.path, writer) for writer in ("w0", "w1")}
    deadline = time.monotonic() + 40
    while working and time.monotonic() < deadline:
        time.sleep(rng.uniform(0.0, 0.25))
        now = look(lake)
        assert seen <= now, "a reader saw committed rows vanish"
        seen = now
        for writer, process in list(working.items()):
            if process.poll() is None and kills < 8 and rng.random() < 0.4:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            if process.poll() is None and kills >= 8:
                continue
            if process.poll() is not None or kills < 8:
                code = process.wait() if process.poll() is not None else None
                if code is None:
                    continue
                acknowledged |= {int(line) for line in process.stdout.read().split()}
                process.stdout.close()
                assert code in (0, -signal.SIGKILL)
                if code == 0:
                    del working[writer]
                else:
                    working[writer] = start(lake.path, writer)
    assert not working, "the collectors did not finish"
    log = lake.snapshot().runs["killed-run"]
    assert log.committed == set(range(SEGMENTS)) >= acknowledged and log.outcome == "complete"
    assert kills >= 2 and look(lake) == set(range(SEGMENTS))
    assert lake.verify("deep").ok


@pytest.mark.parametrize("place", ["link", "rename", "unlink"])
def test_kill_inside_the_commit(tmp_path, place):
    """Exit without cleaning up at a chosen operation of a chosen segment, then resume."""
    lake = Lake.create(tmp_path / "lake")
    lake.start_run("killed-run", {"plan": {"segments": [[i, i + 1] for i in range(SEGMENTS)]}}).close()
    trap = (
        "import os\nfrom tracelake.lake.storage import disk\n"
        f"real, calls = disk.Disk.{place}, []\n"
        "def trap(self, *paths):\n    calls.append(1)\n    real(self, *paths)\n    len(calls) < 5 or os._exit(9)\n"
        f"disk.Disk.{place} = trap\n"
    )
    code = trap + COLLECTOR.format(segments=SEGMENTS)
    process = subprocess.run([sys.executable, "-c", code, str(lake.path), "w0"], capture_output=True, text=True)
    assert process.returncode == 9, process.stderr
    acknowledged = {int(line) for line in process.stdout.split()}
    assert acknowledged <= look(lake)
    assert lake.run_status("killed-run") == "interrupted" and lake.verify("deep").ok
    for writer in ("w0", "w1"):
        with start(lake.path, writer) as process:
            assert process.wait() == 0
    assert lake.run_status("killed-run") == "complete" and json.dumps(lake.verify("deep").as_dict())
    assert look(lake) == set(range(SEGMENTS))
