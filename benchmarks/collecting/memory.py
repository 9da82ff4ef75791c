"""Peak memory of a collection of 1,000 and of 50,000 short sequences: it must not grow with the run."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measurement import Result, arguments
from benchmarks.report import finish

COMMAND = [sys.executable, "-c", "from tracelake.cli import main; main()"]
BATCH, NEW_TOKENS = 64, 2
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Collected:
    """One collection in a process of its own."""

    n_sequences: int
    seconds: float
    peak_mb: float
    lake_mb: float


def collect(folder: Path, n_sequences: int) -> Collected:
    """Collect `n_sequences` short prompts with the bundled model and the default `--keep`."""
    prompts = folder / f"prompts{n_sequences}.txt"
    prompts.write_text("".join(f"{i % 100} + {i // 100}\n" for i in range(n_sequences)), encoding="utf-8")
    lake = folder / f"lake{n_sequences}"
    options = ["--max-new-tokens", str(NEW_TOKENS), "--batch-size", str(BATCH), "--chat", "off", "--yes"]
    arguments = ["collect", "--lake", str(lake), "--prompts", str(prompts), *options]
    started = time.perf_counter()
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"lake collect of {n_sequences} sequences ended with {process.returncode}")
    seconds = time.perf_counter() - started
    lake_mb = sum(path.stat().st_size for path in lake.rglob("*.parquet")) / 1e6
    return Collected(n_sequences, round(seconds, 1), round(usage.ru_maxrss * RSS_UNIT / 2**20, 1), round(lake_mb, 1))


def main() -> None:
    """Measure and store."""
    parser = arguments(__doc__)
    parser.add_argument("--sequences", type=int, nargs=2, default=[1_000, 50_000], help="small and large run")
    options = parser.parse_args()
    small, large = [100, 400] if options.quick else options.sequences
    settings = {"batch": BATCH, "new tokens": NEW_TOKENS, "kept": "default"}
    result = Result("memory", "Peak memory of collections", settings)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        sizes = (small, round((small * large) ** 0.5), large)
        found = [collect(Path(folder), n_sequences) for n_sequences in sizes]
    table = result.table("Bundled model, short prompts", "sequences", "seconds", "peak RSS MB", "lake MB")
    for run in found:
        table.add(run.n_sequences, run.seconds, run.peak_mb, run.lake_mb)
    growth = found[-1].peak_mb / found[0].peak_mb
    result.promise(f"peak memory of {large:,} over {small:,} sequences", 1.1, growth, at_most=True)
    finish(result, options)


if __name__ == "__main__":
    main()
