"""Bytes per row of every table in collected runs, against what a dry run expects."""

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from benchmarks.collecting.collection import EVERYTHING, KEEPS
from benchmarks.gpt2_size import prompt_ids, prompt_texts, save_model
from benchmarks.measurement import Result, arguments
from benchmarks.report import finish
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.collect.running.planning import plan
from tracelake.lake import Lake

NAMES = ("KEY_BYTES", "DISTRIBUTION_BYTES", "TOPK_BYTES", "LAYER_BYTES", "HEAD_BYTES", "SEQUENCE_BYTES")


def configurations(scratch: Path, quick: bool) -> dict[str, CollectConfig]:
    """The runs that are measured: the bundled model generating and reading, and GPT-2 size."""
    keep = KEEPS[EVERYTHING]
    n = 8 if quick else 64
    bundled: dict[str, Any] = {"dataset": "tinymath:test", "limit": n, "keep": keep}
    model = save_model(scratch / "model", quick=quick)
    texts = prompt_texts(prompt_ids(n // 4, 8 if quick else 64))
    wide = {"model": str(model), "prompt": texts, "keep": keep}
    return {
        "bundled, generating": CollectConfig(**bundled, max_new_tokens=8 if quick else 96, samples=1 if quick else 4),
        "bundled, reading": CollectConfig(**bundled, max_new_tokens=0),
        "GPT-2 size, generating": CollectConfig(**wide, max_new_tokens=4 if quick else 32),
        "GPT-2 size, reading, float16": CollectConfig(**wide, max_new_tokens=0, store_dtype="float16"),
    }


def measure(result: Result, lake: Lake, name: str, config: CollectConfig) -> list[float]:
    """Collect, then compare each table; returns expected over actual bytes of the large tables and of all."""
    collection = Collection(config)
    collected = collection.start(lake, assume_yes=True)
    expected = collection.estimate()
    # What stops early is not the constants' fault: count the tokens that are there.
    share = collected.n_tokens / expected.n_tokens
    table = result.table(
        f"{name}: {collected.n_tokens:,} tokens",
        "table", "rows", "files", "bytes", "bytes per row", "footer", "expected bytes", "expected / actual",
    )  # fmt: skip
    snapshot = lake.snapshot(collected.run_id)
    actual_all = expected_all = 0.0
    for table_name, expected_bytes in sorted(expected.table_bytes.items()):
        entries = snapshot.files(table_name, collected.run_id)
        size, rows = sum(entry.size for entry in entries), sum(entry.rows for entry in entries)
        fixed = len(entries) * plan.FILE_BYTES[table_name]
        known = table_name in ("sequences", "operations")
        here = expected_bytes if known else (expected_bytes - fixed) * share + fixed
        footer = median(pq.read_metadata(lake.path / entry.path).serialized_size for entry in entries)
        table.add(
            table_name, rows, len(entries), size, round(size / rows, 2), round(footer), round(here),
            round(here / size, 3),
        )  # fmt: skip
        actual_all, expected_all = actual_all + size, expected_all + here
    result.promise(f"{name}: expected over actual bytes, away from 1 by", 0.1, abs(expected_all / actual_all - 1),
                   unit="", at_most=True)  # fmt: skip
    return [expected_all / actual_all]


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    settings = {name: getattr(plan, name) for name in NAMES}
    result = Result("sizes", "Sizes on disk, expected and actual", settings)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        lake = Lake.create(scratch / "lake")
        for name, config in configurations(scratch, options.quick).items():
            measure(result, lake, name, config)
    result.notes.append(
        "Expected: the constants of collect/running/planning/plan.py (see the settings) with the tokens collected, "
        f"plus a fixed part per file: {', '.join(f'{k} {v:,}' for k, v in plan.FILE_BYTES.items())}."
    )
    finish(result, options)


if __name__ == "__main__":
    main()
