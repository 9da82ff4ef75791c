"""The contexts of one feature out of all activations: bytes that the query reads, footers counted."""

import time
from pathlib import Path
from typing import Any

import numpy as np

import tracelake
from benchmarks.measurement import Result
from tracelake.lake import Lake
from tracelake.lake.analyses import commit_analysis
from tracelake.lake.derived import Analysis, analysis_row

FILE_ROWS, FEATURES, ACTIVE = 4_000_000, 16_384, 16
RUN, SAE = "wide-read", "sae-1"


def measure_lookup(result: Result, folder: Path, options: Any) -> None:
    """`feature_contexts` on files in the order of features, after they were checked once."""
    n_files, rows = (1, 200_000) if options.quick else (2, FILE_ROWS)
    lake = _lake(folder / "features", n_files, rows)
    opened = tracelake.open(lake.path)
    total = sum(entry.size for entry in lake.snapshot().files("feature_activations"))
    time.sleep(2.5)  # files of this moment are checked, but not remembered
    for feature in (5, FEATURES - 5):
        opened.query("feature_contexts", run=RUN, feature=feature)  # checks the files that it opens, once and for all
    read = []
    for feature in (0, FEATURES // 2 + 1, FEATURES - 1):
        before = _bytes_read()
        assert opened.query("feature_contexts", run=RUN, feature=feature).height > 0
        read.append(_bytes_read() - before)
    table = result.table(f"Contexts of one feature, {n_files * rows:,} activations in {n_files} files", "feature",
                         "bytes read", "share of all")  # fmt: skip
    for feature, size in zip((0, FEATURES // 2 + 1, FEATURES - 1), read, strict=True):
        table.add(feature, size, round(size / total, 4))
    result.promise("Bytes read for one feature's contexts", 0.05, max(read) / total, unit="of all", at_most=True)
    result.notes.append("Bytes that this process read from files while the query ran, whatever they were for.")


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).partition(":")[2])


def _lake(path: Path, n_files: int, rows: int) -> Lake:
    """A run of short sequences, and activations whose features are spread evenly over the files."""
    lake = Lake.create(path)
    n_tokens = 1_000
    with lake.start_run(RUN, {"kind": "read", "model": {"name": "m", "n_layers": 1}}) as run:
        with run.segment(0, (0, 1)) as segment:
            position = np.arange(n_tokens, dtype=np.int32)
            segment.append("sequences", {"sequence_id": [0], "prompt": "x" * n_tokens})
            segment.append("token_steps", {"sequence_id": 0, "position": position, "stack": "decoder",
                                           "char_end": position + 1, "is_prompt": True, "token": "x"})  # fmt: skip
        run.finish()
    analysis = Analysis(RUN, "sae-features", {"sae_id": SAE}, "0" * 16)
    rng = np.random.default_rng(0)
    for number in range(n_files):
        first, end = (FEATURES * place // n_files for place in (number, number + 1))
        feature = np.sort(rng.integers(first, end, rows)).astype(np.int32)
        order = np.arange(rows)
        columns = {
            "sae_id": SAE, "analysis_id": analysis.analysis_id, "feature": feature, "sequence_id": order * 0,
            "position": (order % n_tokens).astype(np.int32), "activation": rng.random(rows, dtype=np.float32),
        }  # fmt: skip
        commit_analysis(lake, analysis, {"feature_activations": columns}, replace=False, partial=True)
    commit_analysis(lake, analysis, {"analyses": analysis_row(analysis, 1, [], None)}, replace=False, partial=True)
    return lake
