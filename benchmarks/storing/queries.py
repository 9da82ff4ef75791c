"""Saved queries over ten million token rows, and the token queries with JSONL and pandas."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import tracelake
from benchmarks.measurement import Quiet, Result, Sample, arguments, interleave, timed
from benchmarks.report import finish
from benchmarks.storing.token_rows import write_run
from tracelake.lake import Lake
from tracelake.queries.derived_views import view_definitions
from tracelake.queries.saved_query import SavedQuery, saved_queries

BIG, SMALL = "tokens-all", "tokens-few"
OTHER_TABLES = ("head_summaries", "attention_edges", "activations", "step_embeddings", "sae_features", "operations")
LAYER_TABLES = ("layer_summaries", "predictions")
PANDAS_ROWS = 100_000


def reads(query: SavedQuery, tables: tuple[str, ...], *, through_views: bool = False) -> bool:
    """Whether the SQL, or that of a view it names, names one of the tables."""
    texts = [query.sql]
    for view in reversed(view_definitions() if through_views else ()):  # a view uses only views that sort before it
        texts += [view.sql] if any(view.name in text for text in texts) else []
    return any(table in text for text in texts for table in tables)


def query_cases(lake: Path) -> tuple[dict[str, Callable[[], float]], dict[str, Callable[[], float]]]:
    """The saved queries on tokens and sequences only, and those with layer rows too; each opens the lake."""
    tokens, joins = {}, {}
    for name, query in saved_queries().items():
        if reads(query, OTHER_TABLES) or name == "run_overview":
            continue
        runs = [p.name for p in query.header.parameters if p.type == "RUN"]
        params = {name: BIG if i == 0 else SMALL for i, name in enumerate(runs)}
        case = timed(lambda name=name, params=params: tracelake.open(lake).query(name, **params))
        (joins if reads(query, LAYER_TABLES, through_views=True) else tokens)[name] = case
    return tokens, joins


def write_jsonl(lake: Path, file: Path, n_rows: int, *, lists: bool) -> int:
    """The first rows of `token_steps` as JSON lines; returns the bytes."""
    columns = "*" if lists else "* EXCLUDE (topk_ids, topk_logprobs)"
    rows = Lake.open(lake).sql(f"select {columns} from token_steps where run_id = '{BIG}' limit {n_rows}")
    with file.open("w", encoding="utf-8") as stream:
        for row in rows.iter_rows(named=True):
            stream.write(json.dumps(row) + "\n")
    return file.stat().st_size


def surprisal_by_position(rows: pd.DataFrame) -> pd.DataFrame:
    """The saved query of this name in pandas."""
    known = rows[np.isfinite(rows.surprisal_bits)]
    grouped = known.groupby([known.position, known.step.isna()]).surprisal_bits.agg(["size", "mean", "std"])
    return grouped[grouped["size"] >= 5]


def token_frequency(rows: pd.DataFrame) -> pd.DataFrame:
    """The saved query of this name in pandas."""
    generated = rows[rows.step.notna()]
    grouped = generated.groupby("token_id").agg(
        n=("token", "size"), token=("token", "first"), s=("surprisal_bits", "mean")
    )
    return grouped.nlargest(25, "n")


def token_calibration(rows: pd.DataFrame) -> pd.DataFrame:
    """The saved query of this name in pandas."""
    known = rows[np.isfinite(rows.top1_prob) & rows["rank"].notna()]
    bins = np.minimum(np.floor(known.top1_prob * 10), 9)
    hit = known["rank"] == 0
    return (
        known.assign(hit=hit)
        .groupby([known.step.isna(), bins])
        .agg(n=("hit", "size"), p=("top1_prob", "mean"), h=("hit", "mean"))
    )


PANDAS = {q.__name__: q for q in (surprisal_by_position, token_frequency, token_calibration)}


def compare_pandas(result: Result, scratch: Path, lake: Path, ours: dict[str, Sample], n_tokens: int, options) -> None:
    """Read JSONL and compute, on a hundred thousand rows and on twice as many, scaled to all rows in proportion."""
    n_rows = 2_000 if options.quick else PANDAS_ROWS
    table = result.table(
        f"JSONL and pandas, measured on {n_rows:,} rows, scaled to {n_tokens:,}",
        "query", "rows hold", "measured s", "twice the rows", "scaled s", "lake s", "times slower",
    )  # fmt: skip
    for label, lists in (("all columns", True), ("no top-k lists", False)):
        small, large = scratch / "small.jsonl", scratch / "large.jsonl"
        write_jsonl(lake, small, n_rows, lists=lists)
        write_jsonl(lake, large, 2 * n_rows, lists=lists)
        for name, compute in PANDAS.items():
            cases = {
                file.stem: timed(lambda file=file, compute=compute: compute(pd.read_json(file, lines=True)))
                for file in (small, large)
            }
            found = interleave(cases, 1 if options.quick else 3, warm_up=False, quiet=Quiet(options.patience))
            # In proportion to the larger file: a fixed cost, if there is one, is then counted least.
            scaled = found["large"].median * n_tokens / (2 * n_rows)
            ratio = scaled / ours[name].median
            table.add(
                name, label, round(found["small"].median, 2), round(found["large"].median, 2), round(scaled, 1),
                round(ours[name].median, 3), round(ratio),
            )  # fmt: skip
            if lists:
                result.promise(f"{name} over JSONL and pandas", 100, ratio)


def main() -> None:
    """Measure and store."""
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--layer-tokens", type=int, default=10_000_000, help="tokens that have rows of 6 layers")
    options = parser.parse_args()
    n_tokens, n_layer_tokens = (20_000, 10_000) if options.quick else (options.tokens, options.layer_tokens)
    settings = {"token rows": n_tokens, "tokens with layer rows": n_layer_tokens, "layers": 6}
    result = Result("queries", "Saved queries", settings)
    repeats = options.repeats or (1 if options.quick else 5)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        lake = scratch / "lake"
        start = time.perf_counter()
        write_run(Lake.create(lake), BIG, n_tokens, n_layer_tokens)
        seconds = time.perf_counter() - start
        write_run(Lake.create(lake), SMALL, n_tokens // 10, 0)
        size = sum(path.stat().st_size for path in lake.rglob("*.parquet"))
        rate, gigabytes = (n_tokens + 8 * n_layer_tokens) / seconds / 1e6, size / 1e9
        result.notes.append(
            f"One run of {n_tokens:,} tokens and {8 * n_layer_tokens:,} layer rows, made up and written through the "
            f"store in {seconds:.0f} s ({rate:.2f} M rows/s, making up included); the lake has {gigabytes:.1f} GB."
        )
        tokens, joins = query_cases(lake)
        found = {}
        for title, cases, goal in (("on tokens and sequences", tokens, 1.0), ("with layer rows", joins, 5.0)):
            samples = interleave(cases, repeats, quiet=Quiet(options.patience))
            found |= samples
            table = result.table(f"Saved queries {title}, the lake opened in each", "query", "median s", "rounds")
            for name, sample in sorted(samples.items(), key=lambda item: -item[1].median):
                table.add(name, round(sample.median, 3), sample.spread)
            slowest = max(samples, key=lambda name: samples[name].median)
            what = f"slowest saved query {title} ({slowest})"
            result.promise(what, goal, samples[slowest].median, unit="s", at_most=True)
        compare_pandas(result, scratch, lake, found, n_tokens, options)
    result.notes.append(
        "Files are in the page cache after the first round, which is not counted. Floats are random, so files are "
        "larger than those of a real run."
    )
    finish(result, options)


if __name__ == "__main__":
    main()
