"""How long the command line takes to answer: its help, and a query on a lake of 100 runs."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measurement import Quiet, Result, arguments, interleave, timed
from benchmarks.report import finish
from tracelake.lake import Lake

COMMAND = [sys.executable, "-c", "from tracelake.cli import main; main()"]


def make_runs(folder: Path, n_runs: int) -> None:
    """Runs of two segments each, a few rows in three tables."""
    lake = Lake.create(folder)
    for number in range(n_runs):
        about = {"tag": f"startup{number}", "plan": {"segments": [[0, 1], [1, 2]]}}
        with lake.start_run(f"startup-{number:04d}", about) as run:
            for index in range(2):
                with run.segment(index, (index, index + 1)) as segment:
                    ids = np.full(4, index, np.int64)
                    position = np.arange(4, dtype=np.int32)
                    key = {"sequence_id": ids, "position": position, "stack": "decoder"}
                    segment.append("sequences", {"sequence_id": ids[:1], "prompt": ["a prompt"]})
                    segment.append("token_steps", {**key, "token": ["a", "b", "c", "d"]})
                    states = np.zeros((4, 8), np.float32)
                    segment.append_vectors(
                        "activations", columns=key, vectors=states, dtype="float32", layer=0, site="resid_post"
                    )
            run.finish()


def command(*arguments: str) -> None:
    """Run `lake` in a process of its own, its modules compiled once, as installing them does."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    n_runs = 5 if options.quick else 100
    result = Result("startup", "Start-up of the command line", {"runs": n_runs})
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        lake = Path(folder) / "lake"
        make_runs(lake, n_runs)
        cases = {
            "python -c pass": timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)),
            "lake --help": timed(lambda: command("--help")),
            "lake sql 'select 1'": timed(lambda: command("sql", "select 1", "--lake", str(lake))),
            "lake sql 'select count(*) from token_steps'": timed(
                lambda: command("sql", "select count(*) from token_steps", "--lake", str(lake))
            ),
            "lake runs": timed(lambda: command("runs", "--lake", str(lake))),
        }
        found = interleave(cases, options.repeats or (2 if options.quick else 10), quiet=Quiet(options.patience))
    table = result.table(f"Wall time of a fresh process, lake of {n_runs} runs", "command", "median s", "rounds")
    for name, sample in found.items():
        table.add(name, round(sample.median, 3), sample.spread)
    result.promise("lake --help", 0.3, found["lake --help"].median, unit="s", at_most=True)
    for asked, goal in (("lake sql 'select 1'", 0.35), ("lake runs", 0.5)):
        result.promise(f"{asked} on a lake of 100 runs", goal, found[asked].median, unit="s", at_most=True)
    finish(result, options)


if __name__ == "__main__":
    main()
