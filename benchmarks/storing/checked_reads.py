"""What it costs that files are compared with their records before they are read, and that DuckDB can only read them."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np

from benchmarks.measurement import Quiet, Result, arguments, interleave, speed_ratio
from benchmarks.report import finish
from tracelake.lake import Lake
from tracelake.lake.reading.care import VARIABLE
from tracelake.lake.records.checksum import Checksum

DIM = 768


def fill(lake: Lake, n_runs: int, n_rows: int) -> None:
    """Runs of one segment: token rows and one layer of float16 vectors."""
    rng = np.random.default_rng(0)
    rows = np.arange(n_rows)
    columns = {"sequence_id": rows // 256, "position": (rows % 256).astype(np.int32), "stack": "decoder"}
    for number in range(n_runs):
        with lake.start_run(f"checked-{number:03d}", {}) as run:
            with run.segment(0, (0, 1)) as segment:
                segment.append("token_steps", columns | {"logprob": rng.normal(size=n_rows), "token_id": rows % 50_000})
                vectors = rng.standard_normal((n_rows, DIM), np.float32).astype(np.float16)
                segment.append_vectors(
                    "activations", layer=0, site="resid_post", columns=columns, vectors=vectors, dtype="float16"
                )
            run.finish()


def by_polars(lake: Lake, table: str) -> Callable[[], object]:
    """The bytes of a table's vectors, or the mean of a column, by polars: it reads stored columns as they are."""
    import polars as pl

    wanted = pl.col("vector").bin.size().sum() if table == "activations" else pl.col("logprob").mean()
    return lambda: lake.scan(table).select(wanted).collect()


def by_sql(lake: Lake, table: str) -> Callable[[], object]:
    """The same question in SQL, over a connection of its own, as a command has."""
    wanted = "sum(dim)" if table == "activations" else "avg(logprob)"
    return lambda: lake.sql(f"select {wanted}, count(*) from {table}")


def case(ask: Callable[[], object], mode: str, cache: Path, *, forget: bool) -> Callable[[], float]:
    """Seconds of one question in one mode; what earlier questions remembered is forgotten first if asked."""

    def run() -> float:
        os.environ[VARIABLE] = mode
        if forget:
            shutil.rmtree(cache / "tracelake", ignore_errors=True)
        start = time.perf_counter()
        ask()
        return time.perf_counter() - start

    return run


def compare(result: Result, lake: Lake, cache: Path, options) -> None:
    """Each way of asking in each mode."""
    table = result.table("Seconds of one question", "table", "MB", "how", "mode", "ms", "rounds", "over never")
    for name in ("token_steps", "activations"):
        size = sum(path.stat().st_size for path in (lake.path / "data").glob(f"{name}/**/*.parquet")) / 1e6
        for how, ways in (("SQL", by_sql), ("polars", by_polars)):
            ask = ways(lake, name)
            cases = {
                "never": case(ask, "never", cache, forget=False),
                "first, remembered": case(ask, "first", cache, forget=False),
                "first, first contact": case(ask, "first", cache, forget=True),
                "always": case(ask, "always", cache, forget=False),
            }
            repeats = options.repeats or (2 if options.quick else 9)
            found = interleave(cases, repeats, quiet=Quiet(options.patience))
            case(ask, "first", cache, forget=False)()
            for mode, sample in found.items():
                over = sample.median / found["never"].median
                table.add(
                    name, round(size, 1), how, mode, round(sample.median * 1000, 1), sample.spread, round(over, 2)
                )
            if how == "SQL":
                remembered = found["first, remembered"].median / found["never"].median
                result.promise(f"{name}, SQL: files remembered over never checked", 1.25, remembered, at_most=True)


def compare_file_systems(result: Result, lake: Lake, options) -> None:
    """DuckDB through the file system that only reads, over DuckDB by path; connections are made beforehand.

    By CPU time, because both use all cores and one of them Python's lock.
    """
    table = result.table(
        "DuckDB through read-only files and by paths (CPU seconds of all threads)", "table", "by", "ms", "rounds"
    )
    os.environ[VARIABLE] = "never"
    for name, wanted in (("token_steps", "avg(logprob), avg(token_id)"), ("activations", "sum(octet_length(vector))")):
        paths = [str(path) for path in sorted((lake.path / "data").glob(f"{name}/**/*.parquet"))]
        with lake.connect() as ours, duckdb.connect() as theirs:
            ours.execute(f"select count(*) from {name}")
            source = f"read_parquet(getvariable('{name}_files'))"

            def through(ours=ours, source=source, wanted=wanted) -> float:
                start = time.process_time()
                ours.execute(f"select {wanted} from {source}").fetchall()
                return time.process_time() - start

            def by_path(theirs=theirs, paths=paths, wanted=wanted) -> float:
                start = time.process_time()
                theirs.execute(f"select {wanted} from read_parquet($1)", [paths]).fetchall()
                return time.process_time() - start

            cases = {"read-only files": through, "paths": by_path}
            found = interleave(cases, options.repeats or (2 if options.quick else 15), quiet=Quiet(options.patience))
        for by, sample in found.items():
            table.add(name, by, round(sample.median * 1000, 1), sample.spread)
        ratio = speed_ratio(found["read-only files"], found["paths"])
        result.promise(f"{name}: read-only files over paths, by CPU time", 0.7, ratio)


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    n_runs, n_rows = (3, 2_048) if options.quick else (10, 32_768)
    result = Result("checked_reads", "Checked reads", {"runs": n_runs, "rows of each": n_rows, "dim": DIM})
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        lake = Lake.create(Path(folder) / "lake")
        fill(lake, n_runs, n_rows)
        cache = Path(folder) / "cache"
        os.environ["XDG_CACHE_HOME"] = str(cache)
        time.sleep(2.5)  # files of this moment are not remembered
        data = next((lake.path / "data").glob("activations/**/*.parquet")).read_bytes()
        start = time.perf_counter()
        Checksum("blake3", "").of_bytes(data)
        speed = len(data) / 1e6 / (time.perf_counter() - start)
        result.notes.append(f"BLAKE3 on one core of this machine at this load: {speed:,.0f} MB/s.")
        compare(result, lake, cache, options)
        compare_file_systems(result, lake, options)
    finish(result, options)


if __name__ == "__main__":
    main()
