"""The rows of tracks, from the stored features of a run, some sequences at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from ...lake import Lake
from ...lake.errors import ConfigError
from ...lake.reading.frames import scan_files
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from ...lake.values import Columns, Json
from ..paths.states import answers
from . import metrics, reconstruction
from .association import Rules, follow
from .autoencoders import TrackedSae, decoder
from .dictionaries import Dictionaries
from .tracks import points_frame, tracks_frame
from .units import Choice, chosen_rows, chosen_spans, layer_features, units_of

BLOCK_TOKENS = 20_000
"""Tokens whose features are followed at one time, about."""
KEY = {"token": ["sequence_id", "position"], "sequence": ["sequence_id"]}


@dataclass(frozen=True)
class _Source:
    """What is read for all blocks: per layer the features, the means that divide them, the width."""

    saes: Sequence[TrackedSae]
    features: Sequence[pl.LazyFrame]
    means: Sequence[Float[np.ndarray, " feature"] | None]
    dictionaries: Dictionaries
    choice: Choice
    rules: Rules

    @property
    def layers(self) -> list[int]:
        """Blocks of the model, in order."""
        return [sae.layer for sae in self.saes]


def track_rows(
    lake: Lake,
    snapshot: Snapshot,
    saes: Sequence[TrackedSae],
    choice: Choice,
    rules: Rules,
    *,
    scaled: bool,
    permuted: int | None,
) -> tuple[dict[str, Json], int, list[str]]:
    """Columns of the three tables, the number of sequences with a track, and what a reader must know."""
    stored = scan_files(TABLES["sae_features"], snapshot)
    features = [stored.filter(pl.col("sae_id") == sae.sae_id) for sae in saes]
    means = [_means(rows, sae.d_sae) if scaled else None for rows, sae in zip(features, saes, strict=True)]
    dictionaries = Dictionaries([decoder(lake, sae) for sae in saes])
    if permuted is not None:
        dictionaries = dictionaries.permuted(permuted)
    source = _Source(saes, features, means, dictionaries, choice, rules)
    spans = chosen_spans(answers(snapshot), choice.positions)
    blocks = [made for some in _blocks(spans) if (made := _follow(source, some)) is not None]
    if not blocks:
        [run_id] = snapshot.runs
        raise ConfigError(
            f"Run {run_id} has features, but none at --positions {choice.positions}"
            + (": it generated nothing. Follow --positions all." if choice.positions == "generated" else ".")
        )
    frames = {name: pl.concat([block[name] for block in blocks]) for name in blocks[0]}
    frames["track_metrics"] = _with_errors(lake, snapshot, source, frames["track_metrics"], spans)
    notices = _notices(frames, spans, choice, len(saes))
    frames["track_metrics"] = _with_summaries(frames["track_metrics"], choice)
    n_sequences = frames["track_metrics"]["sequence_id"].n_unique()
    return {name: _columns(frame) for name, frame in frames.items()}, n_sequences, notices


def _means(features: pl.LazyFrame, d_sae: int) -> Float[np.ndarray, " feature"]:
    """Mean activation of each feature where it is active, over all tokens of the run."""
    rows = features.group_by("feature").agg(pl.col("activation").cast(pl.Float64).mean()).collect()
    means = np.ones(d_sae)
    means[rows["feature"].to_numpy()] = rows["activation"].to_numpy()
    return means


def _blocks(spans: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Some whole sequences at a time."""
    block = spans["count"].cast(pl.Int64).cum_sum() // BLOCK_TOKENS
    yield from spans.with_columns(block.alias("block")).partition_by("block", maintain_order=True, include_key=False)


def _follow(source: _Source, spans: pl.DataFrame) -> dict[str, pl.DataFrame] | None:
    """The frames of some sequences; None if they have no feature at the chosen positions."""
    first, last = spans["sequence_id"].min(), spans["sequence_id"].max()
    near = pl.col("sequence_id").is_between(first, last)  # by the files' statistics, most are not read
    rows = [chosen_rows(features.filter(near), spans, source.choice) for features in source.features]
    units = units_of(rows, source.choice.unit)
    if not units.height:
        return None
    layers = [
        layer_features(one, units, source.choice, sae.d_sae, means)
        for one, sae, means in zip(rows, source.saes, source.means, strict=True)
    ]
    points = points_frame(follow(layers, source.dictionaries, source.rules), source.layers)
    tracks = tracks_frame(points, len(layers), source.rules.gap)
    numbers = metrics.metrics(points, tracks, units.height, len(layers))
    places = list(range(len(layers)))
    block = [
        pl.col(name).replace_strict(places, source.layers, default=None, return_dtype=pl.Int32).alias(f"{name}_layer")
        for name in ("birth", "death")
    ]
    keyed = units.with_columns(pl.col("unit").cast(pl.Int64))
    if source.choice.unit == "sequence":
        keyed = keyed.with_columns(pl.lit(None, pl.Int32).alias("position"))
    key = ["sequence_id", "position"]
    real = pl.col("max", "mean", "final").cast(pl.Float32)
    return {
        "tracks": tracks.join(keyed, on="unit", maintain_order="left").select(
            *key, pl.col("track").cast(pl.Int32), *block, "n_layers", real
        ),
        "track_points": points.join(keyed, on="unit", maintain_order="left").select(
            *key, pl.col("track").cast(pl.Int32), pl.col("block").alias("layer"), pl.col("feature").cast(pl.Int32),
            pl.col("activation", "cost").cast(pl.Float32),
        ),
        "track_metrics": numbers.join(keyed, on="unit", maintain_order="left").select(*key, *metrics.NAMES, "reason"),
    }  # fmt: skip


def _with_errors(
    lake: Lake, snapshot: Snapshot, source: _Source, rows: pl.DataFrame, spans: pl.DataFrame
) -> pl.DataFrame:
    """The metrics with the eight numbers of the reconstruction errors: of the token, or of the sequence's last."""
    tokens = rows.select("sequence_id", "position")
    if source.choice.unit == "sequence":
        last = (pl.col("first") + pl.col("count") - 1).alias("position")
        tokens = tokens.select("sequence_id").join(
            spans.select("sequence_id", last), on="sequence_id", how="left", maintain_order="left"
        )  # fmt: skip
    if any(sae.writes_elsewhere for sae in source.saes):
        errors = np.full((tokens.height, len(source.saes)), np.nan)
        reason: Any = np.full(tokens.height, reconstruction.TRANSCODER)
    else:
        errors = np.stack([
            reconstruction.squared_errors(lake, snapshot, sae, tokens, features)
            for sae, features in zip(source.saes, source.features, strict=True)
        ], axis=1)  # fmt: skip
        reason = None
    numbers, why = reconstruction.course(errors, np.array(source.layers))
    named = {name: pl.Series(values).fill_nan(None) for name, values in numbers.items()}
    both = pl.concat_str([pl.col("reason"), pl.col("why").replace("", None)], separator="; ", ignore_nulls=True)
    return rows.with_columns(pl.Series("why", why if reason is None else reason), **named).with_columns(
        both.replace("", None).alias("reason")
    ).drop("why")  # fmt: skip


def _with_summaries(rows: pl.DataFrame, choice: Choice) -> pl.DataFrame:
    """Of tokens also the mean, largest and last over each sequence, as rows without a position."""
    own = rows.with_columns(pl.lit(None, pl.String).alias("over"))
    if choice.unit == "sequence":
        return own
    names = [*metrics.NAMES, *reconstruction.NAMES]
    values = pl.col(names)
    grouped = rows.sort("sequence_id", "position").group_by("sequence_id", maintain_order=True)
    made = [
        grouped.agg(expression, pl.col("reason").drop_nulls().first()).with_columns(
            pl.lit(over).alias("over"), pl.lit(None, pl.Int32).alias("position")
        )
        for over, expression in (("mean", values.mean()), ("max", values.max()), ("last", values.last()))
    ]
    return pl.concat([own, *(frame.select(own.columns) for frame in made)])


def _notices(frames: dict[str, pl.DataFrame], spans: pl.DataFrame, choice: Choice, n_layers: int) -> list[str]:
    rows, notices = frames["track_metrics"], []
    if lacking := spans.height - rows["sequence_id"].n_unique():
        notices.append(f"{lacking} of {spans.height} sequences have no feature at --positions {choice.positions}.")
    known = rows.select(metrics.NAMES).drop_nulls()
    same = [name for name in metrics.NAMES if known[name].n_unique() <= 1]
    if same and known.height > 1:
        notices.append(
            f"{len(same)} of the 26 numbers are the same in every {choice.unit}"
            + (" (they say nothing)" if n_layers > 1 else " (one layer)")
            + f": {', '.join(same)}."
        )
    return notices


def _columns(frame: pl.DataFrame) -> Columns:
    return {name: frame[name].to_arrow() for name in frame.columns}
