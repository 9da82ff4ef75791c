"""`fingerprints`, `comparisons`, `trajectory_correlations`: what is typical of a run, and how two of them differ."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import pyarrow as pa

from ...lake import Lake
from ...lake.derived import stored_analyses
from ...lake.errors import NotFoundError, UsageError, did_you_mean
from ...lake.snapshot import Snapshot
from ...lake.tables.tokens import SEQUENCES
from ..option import option
from ..paths.planes import SEED
from ..paths.stored_paths import LEAST_PERSISTENCE, LEAST_PERSISTENCE_MEANS, PathChoice
from ..paths.topology import Topology
from ..paths.trajectory import VERSION, Trajectory
from ..question import Evidence, Question, Reads, Rows
from .correlation import correlation
from .permutation import difference, holm

STEP_METRICS = ("velocity", "curvature_rad", "cos_to_prompt", "surprisal_bits", "entropy_bits")
PATH_METRICS = (
    "mean_velocity", "mean_curvature_rad", "early_velocity", "early_curvature_rad", "path_length", "tortuosity",
    "half_life_step", "n_steps", "n_loops", "total_persistence", "mean_surprisal_bits", "mean_entropy_bits", "correct",
)  # fmt: skip
EARLY = 16
"""Steps of a path that `early_*` means: a growing text moves less the longer it is, so lengths must be equal."""
FROM_END = 16
"""Places before the end of the answer at which correlations are computed."""


@dataclass(frozen=True)
class Comparison(PathChoice):
    """How two runs, or two groups of one run, differ: fingerprints, tests grouped by prompt, correlations."""

    name: ClassVar[str] = "compare"
    n_runs: ClassVar[tuple[int, int | None]] = (1, 2)
    by: str | None = option(None, "Compare two groups of one run instead, by this column of `sequences`.")
    values: tuple[str, str] | None = option(
        None, "The two values of that column; the most frequent two if not given.", flag="--value"
    )
    n_permutations: int = option(1999, "Permutations of the labels.", flag="--permutations")
    min_persistence: float = option(LEAST_PERSISTENCE, LEAST_PERSISTENCE_MEANS)

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError unless two runs, or two groups of one, are asked for."""
        if len(run_ids) not in (1, 2) or (len(run_ids) == 1) == (self.by is None):
            raise UsageError("Compare two runs (RUN OTHER), or two groups of one run (--by solution_method).")
        if self.values is not None and len(self.values) != 2:
            raise UsageError("Give --value twice: the first group and the second.")
        if self.n_permutations < 1:
            raise UsageError("--permutations must be 1 or more.")
        if len(set(run_ids)) < len(run_ids):
            raise UsageError(f"Both names mean the same run ({run_ids[0]}).")

    def needs(self, snapshot: Snapshot) -> Sequence[Question]:
        """The run's trajectories, with the pictures that stored ones have, and its topology."""
        path = self._path()
        wanted = path.resolve(snapshot).path_parameters().items()
        [log] = snapshot.runs.values()
        stored = [a for a in stored_analyses(log).values() if a.name == "trajectory" and wanted <= a.parameters.items()]
        umap = str(stored[-1].parameters["umap"]) if stored else "none"
        place = (self.embedder, self.scope, self.site, self.layer)
        return replace(path, umap=umap), Topology(*place, min_persistence=self.min_persistence, null_paths=0)

    def _path(self) -> Trajectory:
        return Trajectory(self.embedder, self.scope, self.site, self.layer, umap="none")

    def resolve(self, snapshot: Snapshot) -> Self:
        """Nothing is open: what the groups are is computed."""
        return self

    def reads(self) -> Reads:
        """Besides the answers it needs."""
        return [("sequences", {}), ("token_steps", {})]

    def parameters(self, run_ids: Sequence[str]) -> dict[str, object]:
        """The paths as they were asked for, and how they are compared."""
        return self._path().path_parameters() | {
            "umap": "none",
            "by": self.by,
            "values": self.values,
            "n_permutations": self.n_permutations,
            "min_persistence": self.min_persistence,
            "other": run_ids[1] if len(run_ids) > 1 else None,
            "seed": SEED,
            "version": VERSION,
        }

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """The rows of `fingerprints`, `comparisons` and `trajectory_correlations`."""
        return _compute(lake, runs, self)


def _compute(lake: Lake, sides: Sequence[Evidence], options: Comparison) -> Rows:
    steps, paths = zip(*(_rows(lake, side, options) for side in sides), strict=True)
    step_rows, path_rows = pl.concat(steps), pl.concat(paths)
    labels = _labels(path_rows, sides, options)
    step_rows = step_rows.filter(pl.col("label").is_in(labels))
    path_rows = path_rows.filter(pl.col("label").is_in(labels))
    other = sides[1].run_id if len(sides) > 1 else None
    compared = _comparisons(path_rows, labels, options)
    shared = compared[0]["n_prompts"]
    notices = [f"{shared:,} prompts count ({compared[0]['design']})."]
    tables = {
        "fingerprints": _fingerprints(step_rows, path_rows),
        "comparisons": _columns(compared) | {"other_run_id": other},
        "trajectory_correlations": _correlations(step_rows, path_rows),
    }
    return Rows(tables, path_rows.height, notices)


def _rows(lake: Lake, side: Evidence, options: Comparison) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One row per step and one per path, with prompt, label and every metric as a float."""
    run = side.run_id
    label = pl.lit(run) if options.by is None else _by(options.by)
    sequences = lake.scan("sequences", run).select(
        "sequence_id", "prompt_id", label.alias("label"), pl.col("correct").cast(pl.Float64),
        (pl.col("n_generated_tokens") - (pl.col("finish_reason") == "eos").cast(pl.Int32)).alias("n_answer"),
    )  # fmt: skip
    tokens = lake.scan("token_steps", run).select("sequence_id", "position", "surprisal_bits", "entropy_bits")
    steps = (
        _of(lake, "trajectories", run, side.answers["trajectory"])
        .filter(pl.col("step").is_not_null())
        .select("sequence_id", "position", "step", "velocity", "curvature_rad", "cos_to_prompt")
        .join(tokens, on=["sequence_id", "position"], how="left")
        .join(sequences, on="sequence_id")
        .with_columns((pl.col("n_answer") - 1 - pl.col("step")).alias("steps_from_end"))
        .with_columns(pl.col(name).cast(pl.Float64) for name in STEP_METRICS)
    )
    loops = (
        _of(lake, "persistence_summaries", run, side.answers["topology"])
        .filter((pl.col("space") == "pca") & (pl.col("dimension") == 1))
        .select("sequence_id", "n_loops", "total_persistence")
    )
    means = steps.group_by("sequence_id").agg(
        pl.col("surprisal_bits").mean().alias("mean_surprisal_bits"),
        pl.col("entropy_bits").mean().alias("mean_entropy_bits"),
        *(_early(column).alias(f"early_{column}") for column in ("velocity", "curvature_rad")),
    )
    paths = (
        _of(lake, "trajectory_summaries", run, side.answers["trajectory"])
        .join(loops, on="sequence_id", how="left")
        .join(means, on="sequence_id", how="left")
        .join(sequences, on="sequence_id")
        .select("sequence_id", "prompt_id", "label", *(pl.col(name).cast(pl.Float64) for name in PATH_METRICS))
    )
    # Sequence ids of two runs are different things.
    return tuple(  # type: ignore[return-value]
        frame.with_columns(pl.lit(run).alias("run"), pl.col("label").cast(pl.String)).sort("sequence_id").collect()
        for frame in (steps.sort("sequence_id", "step"), paths)
    )


def _early(column: str) -> pl.Expr:
    """Mean of the first steps of paths that have them all."""
    return pl.when(pl.len() >= EARLY).then(pl.col(column).filter(pl.col("step") < EARLY).mean())


def _by(name: str) -> pl.Expr:
    names = [c.name for c in SEQUENCES.columns if c.type in (pa.string(), pa.bool_()) and c.name != "run_id"]
    if name not in names:
        raise UsageError(
            f"--by {name!r} is no text or truth column of `sequences`.{did_you_mean(name, names, show=40)}"
        )
    return pl.col(name)


def _of(lake: Lake, table: str, run: str, analysis_id: str) -> pl.LazyFrame:
    return lake.scan(table, run).filter(pl.col("analysis_id") == analysis_id)


def _labels(paths: pl.DataFrame, sides: Sequence[Evidence], options: Comparison) -> list[str]:
    """The two groups, the first of which is compared with the second."""
    if options.by is None:
        return [side.run_id for side in sides]
    counted = paths.drop_nulls("label")["label"].value_counts(sort=True)
    known = counted.sort("count", "label", descending=[True, False])["label"].to_list()
    if options.values is not None:
        if missing := [value for value in options.values if value not in known]:
            raise NotFoundError(f"No sequence has {options.by} {missing[0]!r}.{did_you_mean(missing[0], known)}")
        return list(options.values)
    if len(known) < 2:
        raise NotFoundError(f"{options.by} has fewer than two values in the run: {', '.join(known) or 'none'}.")
    return sorted(known[:2])


def _fingerprints(steps: pl.DataFrame, paths: pl.DataFrame) -> dict[str, object]:
    parts = []
    for per, frame, metrics in (("step", steps, STEP_METRICS), ("sequence", paths, PATH_METRICS)):
        for metric in metrics:
            value = pl.col(metric)
            parts.append(
                frame.filter(value.is_null() | value.is_finite()).group_by("label", maintain_order=True).agg(
                    pl.lit(metric).alias("metric"), pl.lit(per).alias("per"), value.count().cast(pl.Int64).alias("n"),
                    pl.col("prompt_id").filter(value.is_not_null()).n_unique().cast(pl.Int64).alias("n_prompts"),
                    value.mean().alias("mean"), value.std().alias("sd"),
                    *(value.quantile(q, "linear").alias(n) for n, q in (("q05", 0.05), ("q25", 0.25),
                      ("median", 0.5), ("q75", 0.75), ("q95", 0.95))),
                )
            )  # fmt: skip
    frame = pl.concat(parts).with_columns(
        pl.when(pl.col("n") == 0).then(pl.lit("no values")).otherwise(None).alias("reason")
    )
    return {name: frame[name].to_arrow() for name in frame.columns}


def _comparisons(paths: pl.DataFrame, labels: list[str], options: Comparison) -> list[dict[str, object]]:
    prompt = paths["prompt_id"].cast(pl.Categorical).to_physical().to_numpy().astype(np.int64)
    in_a = (paths["label"] == labels[0]).to_numpy()
    rows = []
    for metric in PATH_METRICS:
        values = paths[metric].to_numpy().astype(np.float64)
        found = difference(values, prompt, in_a, n_permutations=options.n_permutations, seed=SEED)
        rows.append({"metric": metric, "label_a": labels[0], "label_b": labels[1]} | vars(found))
    for row, corrected in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row |= {"p_holm": corrected, "n_permutations": options.n_permutations}
    return rows


def _correlations(steps: pl.DataFrame, paths: pl.DataFrame) -> dict[str, object]:
    rows = []
    for (label,), group in steps.group_by("label", maintain_order=True):
        own = paths.filter(pl.col("label") == label)
        for metric in ("velocity", "curvature_rad"):
            for other in ("surprisal_bits", "entropy_bits", "correct"):
                pairs = _centred(group, metric, other) if other != "correct" else _means(own, metric)
                found = [(None, pairs)]
                found += [(k, group.filter(pl.col("steps_from_end") == k)) for k in range(FROM_END)]
                for place, frame in found:
                    about = {"label": label, "metric": metric, "other": other, "steps_from_end": place}
                    rows.append(about | vars(_correlated(frame, metric, other)))
    return _columns(rows) | {"steps_from_end": pa.array([row["steps_from_end"] for row in rows], pa.int32())}


def _centred(steps: pl.DataFrame, metric: str, other: str) -> pl.DataFrame:
    """All steps where both are known, each less its sequence's mean: what goes together within a text."""
    known = steps.drop_nulls([metric, other])
    return known.with_columns(pl.col(name) - pl.col(name).mean().over("run", "sequence_id") for name in (metric, other))


def _means(paths: pl.DataFrame, metric: str) -> pl.DataFrame:
    return paths.with_columns(pl.col(f"mean_{metric}").alias(metric))


def _correlated(frame: pl.DataFrame, metric: str, other: str) -> Any:
    x, y = (frame[name].to_numpy().astype(np.float64) for name in (metric, other))
    prompt = frame["prompt_id"].cast(pl.Categorical).to_physical().to_numpy().astype(np.int64)
    return correlation(x, y, prompt, seed=SEED)


def _columns(rows: Sequence[dict[str, object]]) -> dict[str, object]:
    return {
        name: pa.array([row[name] for row in rows], from_pandas=True)
        if isinstance(rows[0][name], float)
        else [row[name] for row in rows]
        for name in rows[0]
    }
