"""Signals from sequences and their tokens: length, difficulty, telemetry, agreement, health, paths, the lens."""

import numpy as np
import polars as pl

from ....lake.derived import stored_analyses
from ....lake.errors import NotFoundError
from ....lake.reading.frames import scan_files
from ....lake.schema import TABLES
from ....lake.snapshot import Snapshot
from ...attributes import metadata_values
from ...paths.stored_paths import choose_source, read_paths
from .signal import Block, Signal, absent, one_block

LEVEL = "level"
_ANSWER = (pl.col("step") >= 0) & (pl.col("step") < pl.col("n_answer"))


def text(snapshot: Snapshot, sequences: pl.DataFrame) -> Signal:
    """Lengths and the level of difficulty, if the input gives one: benchmarks leak through them."""
    columns = {
        "prompt_tokens": sequences["n_prompt_tokens"].to_numpy(),
        "answer_tokens": sequences["n_answer"].to_numpy(),
        "prompt_characters": sequences["prompt"].fill_null("").str.len_chars().to_numpy(),
        "answer_characters": sequences["completion"].fill_null("").str.len_chars().to_numpy(),
    }
    levels = metadata_values(sequences, LEVEL)
    for level in sorted({one for one in levels if one is not None}):
        columns[f"level={level}"] = np.array([np.nan if one is None else float(one == level) for one in levels])
    return one_block("text", columns, lacking=0.0)  # a level that another run does not have is not its level


def text_embedding(snapshot: Snapshot, sequences: pl.DataFrame) -> Signal:
    """The sentence embedding of the whole text, stored by `lake analyze embed`."""
    try:
        source = choose_source(snapshot, embedder=None, scope=None, site=None, layer=None)
    except NotFoundError:
        return absent("text-embedding", "no step embeddings are stored: `lake analyze embed` makes them")
    ids, vectors = sequences["sequence_id"].to_numpy(), np.empty((0, 0))
    for paths in read_paths(snapshot, source, sequences):
        if not vectors.size:
            vectors = np.full((len(ids), paths.vectors.shape[1]), np.nan)
        vectors[np.searchsorted(ids, paths.sequence_id[paths.starts])] = paths.vectors[paths.starts + paths.lengths - 1]
    names = tuple(f"{source.text}:{n}" for n in range(vectors.shape[1]))
    return Signal("text-embedding", (Block("text-embedding", names, vectors),), ("logistic",))


def telemetry(snapshot: Snapshot, sequences: pl.DataFrame) -> Signal:
    """What the distributions of the answer's tokens say."""
    logprob, entropy = pl.col("logprob").cast(pl.Float64), pl.col("entropy_bits").cast(pl.Float64)
    surprisal, margin = pl.col("surprisal_bits").cast(pl.Float64), pl.col("margin").cast(pl.Float64)
    rows = _over_answer(
        snapshot,
        "token_steps",
        sequences,
        pl.when(logprob.count() > 0).then(logprob.sum()).alias("sum_logprob"),
        logprob.mean().alias("mean_logprob"),
        entropy.mean().alias("mean_entropy"),
        entropy.max().alias("max_entropy"),
        surprisal.mean().alias("mean_surprisal"),
        surprisal.max().alias("max_surprisal"),
        margin.min().alias("min_margin"),
    )
    return _of_frame("telemetry", rows, "the run kept no distributions (--keep tokens)")


def consistency(snapshot: Snapshot, sequences: pl.DataFrame) -> Signal:
    """Share of a prompt's samples that give the same parsed answer, itself counted; one without equals no other."""
    if sequences["prompt_id"].n_unique() == sequences.height:
        return absent("consistency", "one sample per prompt: nothing to agree with (--samples)")
    if not sequences["predicted_answer"].is_not_null().any():
        return absent("consistency", "no answer was parsed: `lake analyze grade` reads answers")
    answer = pl.col("predicted_answer")
    same = pl.len().over("prompt_id", "predicted_answer")
    share = pl.when(answer.is_null()).then(1).otherwise(same) / pl.len().over("prompt_id")
    return one_block("consistency", {"same_answer": sequences.select(share.alias("share"))["share"].to_numpy()})


def health(snapshot: Snapshot, sequences: pl.DataFrame) -> Signal:
    """Norms, attention and repetition over the answer, layer by layer, as the health verdicts see them."""
    if not snapshot.files("layer_summaries"):
        return absent("health", "the run kept no layer summaries (--keep layers)")
    names = (
        "l2_norm", "attn_entropy_bits_mean", "attn_entropy_bits_min", "attn_max_weight_max", "cos_prev_position",
    )  # fmt: skip
    rows = (
        _answer_rows(snapshot, "layer_summaries", sequences)
        .filter(pl.col("site").is_in(["resid_post", "final_norm"]))
        .group_by("sequence_id", "site", "layer")
        .agg(
            *(pl.col(name).cast(pl.Float64).mean() for name in names),
            (pl.col("n_nan") + pl.col("n_inf")).sum().cast(pl.Float64).alias("not_finite"),
        )
        .collect()
    )
    wide = rows.with_columns(pl.concat_str("site", pl.lit("@"), "layer").alias("place")).pivot(
        "place", index="sequence_id", values=[*names, "not_finite"], sort_columns=True
    )
    return _of_frame("health", _aligned(sequences, wide), "no layer summary of an answer's token")


def trajectory(snapshot: Snapshot, sequences: pl.DataFrame) -> Signal:
    """Velocity, curvature and the rest of the newest stored trajectories."""
    newest = _newest(snapshot, "trajectory")
    if newest is None:
        return absent("trajectory", "no trajectories are stored: `lake analyze trajectory` makes them")
    numbers = (
        "n_steps", "mean_velocity", "max_velocity", "path_length", "end_to_end", "tortuosity", "mean_curvature_rad",
        "max_curvature_rad", "min_cos_to_prompt", "half_life_step",
    )  # fmt: skip
    rows = scan_files(TABLES["trajectory_summaries"], snapshot).filter(pl.col("analysis_id") == newest)
    return _of_frame(
        "trajectory", _aligned(sequences, rows.select("sequence_id", *numbers).collect()), "no summary of a path"
    )


def lens(snapshot: Snapshot, sequences: pl.DataFrame) -> Signal:
    """Mean over the answer of what the logit lens says, layer by layer."""
    newest = _newest(snapshot, "lens")
    if newest is None:
        return absent("lens", "no logit lens is stored: `lake analyze lens` makes it")
    rows = (
        _answer_rows(snapshot, "logit_lens", sequences)
        .filter(pl.col("analysis_id") == newest)
        .group_by("sequence_id", "layer")
        .agg(pl.col("entropy_bits", "kl_bits").cast(pl.Float64).mean())
        .collect()
    )
    wide = rows.pivot("layer", index="sequence_id", values=["entropy_bits", "kl_bits"], sort_columns=True)
    return _of_frame("lens", _aligned(sequences, wide), "the lens has no row of an answer's token")


def _newest(snapshot: Snapshot, name: str) -> str | None:
    [log] = snapshot.runs.values()
    ids = [one.analysis_id for one in stored_analyses(log).values() if one.name == name]
    return ids[-1] if ids else None


def _answer_rows(snapshot: Snapshot, table: str, sequences: pl.DataFrame) -> pl.LazyFrame:
    """Rows at the answer's tokens, with their step."""
    ids = sequences.lazy().select("sequence_id", "n_answer", "n_prompt_tokens")
    step = (pl.col("position") - pl.col("n_prompt_tokens")).alias("step")
    rows = scan_files(TABLES[table], snapshot)
    names = rows.collect_schema().names()
    rows = rows.join(ids, on="sequence_id")
    return (rows if "step" in names else rows.with_columns(step)).filter(_ANSWER)


def _over_answer(snapshot: Snapshot, table: str, sequences: pl.DataFrame, *numbers: pl.Expr) -> pl.DataFrame:
    rows = _answer_rows(snapshot, table, sequences).group_by("sequence_id").agg(*numbers).collect()
    return _aligned(sequences, rows)


def _aligned(sequences: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    joined = sequences.select("sequence_id").join(rows, on="sequence_id", how="left", maintain_order="left")
    return joined.drop("sequence_id")


def _of_frame(name: str, rows: pl.DataFrame, reason: str) -> Signal:
    values = rows.select(pl.all().cast(pl.Float64).fill_null(np.nan)).to_numpy()
    if not rows.width or not np.isfinite(values).any():
        return absent(name, reason)
    return Signal(name, (Block(name, tuple(rows.columns), values),))
