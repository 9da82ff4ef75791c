"""Writing activations through the store, checksums and fsync included, over raw write and fsync; and reading back."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measurement import Quiet, Result, arguments, interleave, ratio_range, speed_ratio
from benchmarks.report import finish
from tracelake.lake import Lake

DIM = 768
DTYPES = ("float16", "float32")


def vectors(n_rows: int, dtype: str, seed: int) -> np.ndarray:
    """Random states."""
    return np.random.default_rng(seed).standard_normal((n_rows, DIM), np.float32).astype(dtype)


def key_columns(n_rows: int) -> dict[str, object]:
    """Sequences of 256 tokens."""
    rows = np.arange(n_rows)
    return {"sequence_id": rows // 256, "position": (rows % 256).astype(np.int32), "stack": "decoder"}


class ThroughTheStore:
    """Commits one segment of `matrices`, one per layer, as a run of its own."""

    def __init__(self, lake: Lake, matrices: list[np.ndarray], dtype: str) -> None:
        self.lake, self.matrices, self.dtype, self.count = lake, matrices, dtype, 0
        self.columns = key_columns(len(matrices[0]))

    def write(self, run_id: str) -> float:
        """Seconds from the first row handed over to the durable commit."""
        with self.lake.start_run(run_id, {"tag": "store"}) as run:
            start = time.perf_counter()
            with run.segment(0, (0, 1)) as segment:
                for layer, matrix in enumerate(self.matrices):
                    segment.append_vectors(
                        "activations",
                        columns=self.columns,
                        vectors=matrix,
                        dtype=self.dtype,
                        layer=layer,
                        site="resid_post",
                    )
            seconds = time.perf_counter() - start
            run.finish()
        return seconds

    def __call__(self) -> float:
        """Write and remove."""
        self.count += 1
        run_id = f"store-{self.dtype}-{self.count:04d}"
        seconds = self.write(run_id)
        self.lake.remove(run_id, dry_run=False, now=True)
        return seconds


def raw_write(folder: Path, matrices: list[np.ndarray]) -> Callable[[], float]:
    """The same bytes to as many files, each written at once and synced."""

    def run() -> float:
        paths = [folder / f"raw-{i}.bin" for i in range(len(matrices))]
        start = time.perf_counter()
        for path, matrix in zip(paths, matrices, strict=True):
            with path.open("wb", buffering=0) as file:
                view = memoryview(matrix).cast("B")
                while len(view):
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
        seconds = time.perf_counter() - start
        for path in paths:
            path.unlink()
        return seconds

    return run


def compare_writing(result: Result, scratch: Path, title: str, shapes: tuple[int, int], options) -> None:
    """`shapes`: number of files (layers) and rows of each."""
    n_files, n_rows = shapes
    table = result.table(title, "format", "MB", "store MB/s", "rounds", "raw MB/s", "raw rounds", "ratio", "per round")
    for dtype in DTYPES:
        matrices = [vectors(n_rows, dtype, seed) for seed in range(n_files)]
        size = sum(matrix.nbytes for matrix in matrices) / 1e6
        lake = Lake.create(scratch / f"lake-{dtype}-{n_files}")
        cases = {"store": ThroughTheStore(lake, matrices, dtype), "raw": raw_write(scratch, matrices)}
        found = interleave(cases, options.repeats or (2 if options.quick else 15), quiet=Quiet(options.patience))
        store, raw = found["store"], found["raw"]
        ratio = speed_ratio(store, raw)
        table.add(
            dtype, round(size, 1), round(size / store.median), store.spread, round(size / raw.median), raw.spread,
            round(ratio, 3), ratio_range(store, raw),
        )  # fmt: skip
        result.promise(f"{title}, {dtype}: store over raw write and fsync", 0.7, ratio)


def measure_reading(result: Result, scratch: Path, n_rows: int, options) -> None:
    """Read one layer back: numpy batches, and inner products in DuckDB; files are in the page cache."""
    table = result.table("Reading one layer back (page cache)", "format", "how", "GB/s stored", "rounds")
    for dtype in DTYPES:
        lake = Lake.create(scratch / f"lake-read-{dtype}")
        ThroughTheStore(lake, [vectors(n_rows, dtype, 0)], dtype).write("read-one")
        probe = np.ones(DIM, np.float32).tolist()

        def batches(lake: Lake = lake, raw: bool = False) -> float:
            start = time.perf_counter()
            for _, matrix in lake.vectors(0, "resid_post", raw=raw):
                matrix[-1, -1]
            return time.perf_counter() - start

        def inner_products(lake: Lake = lake, probe: list[float] = probe) -> float:
            with lake.connect() as connection:
                start = time.perf_counter()
                query = "select sum(list_inner_product(vector, $v::FLOAT[])) from activations where layer = 0"
                connection.execute(query, {"v": probe}).fetchall()
                return time.perf_counter() - start

        cases = {
            "lake.vectors, raw": lambda batches=batches: batches(raw=True),
            "lake.vectors, as float32": batches,
            "SQL, list_inner_product": inner_products,
        }
        size = n_rows * DIM * np.dtype(dtype).itemsize / 1e9
        for name, sample in interleave(
            cases, options.repeats or (2 if options.quick else 9), quiet=Quiet(options.patience)
        ).items():
            table.add(dtype, name, round(size / sample.median, 2), sample.spread)


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    n_rows, n_sites = (2_048, 3) if options.quick else (65_536, 13)
    settings = {"rows": n_rows, "dim": DIM, "files of a segment": n_sites, "row group": "16 MiB"}
    result = Result("store", "Writing and reading activations", settings)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        compare_writing(result, scratch, f"One file of {n_rows:,} x {DIM}", (1, n_rows), options)
        rows_each = n_rows // n_sites
        compare_writing(
            result, scratch, f"A segment of {n_sites} sites, {rows_each:,} rows each", (n_sites, rows_each), options
        )
        measure_reading(result, scratch, n_rows, options)
    result.notes.append("Raw: one write call and one fsync per file, no checksum. Both delete their files untimed.")
    finish(result, options)


if __name__ == "__main__":
    main()
