"""Stored features as what tracks are made of: the strongest of each layer of a token or a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float

from .association import LayerFeatures

Unit = Literal["token", "sequence"]
Pool = Literal["max", "last"]
Positions = Literal["generated", "all"]
_KEY = {"token": ["sequence_id", "position"], "sequence": ["sequence_id"]}


@dataclass(frozen=True)
class Choice:
    """Which features of which positions are offered to tracks."""

    unit: Unit
    pool: Pool
    positions: Positions
    top_k: int
    zeros: bool
    """Fill up to `top_k` with features of activation 0, lowest ids first."""


def chosen_spans(sequences: pl.DataFrame, positions: Positions) -> pl.DataFrame:
    """Of every sequence the first chosen position and how many there are: answer tokens, or all tokens."""
    if positions == "generated":
        first, count = pl.col("n_prompt_tokens"), pl.col("n_answer")
    else:
        first, count = pl.lit(0), pl.col("n_prompt_tokens") + pl.col("n_generated_tokens").fill_null(0)
    return sequences.select(
        "sequence_id", first.cast(pl.Int32).alias("first"), count.cast(pl.Int32).alias("count")
    )  # fmt: skip


def chosen_rows(features: pl.LazyFrame, spans: pl.DataFrame, choice: Choice) -> pl.DataFrame:
    """The features of one autoencoder at the chosen positions: sequence_id, position, feature, activation, place.

    Pooled over a sequence, a feature has its largest activation and the first place of it, or that of the last token.
    """
    position, last = pl.col("position"), pl.col("first") + pl.col("count") - 1
    wanted = (position >= pl.col("first")) & (position <= last)
    if choice.unit == "sequence" and choice.pool == "last":
        wanted = position == last
    rows = (
        features.join(spans.lazy(), on="sequence_id")
        .filter(wanted)
        .select(
            "sequence_id",
            "position",
            "feature",
            pl.col("activation").cast(pl.Float64),
            # All features of a token are at one place.
            (pl.lit(0.0) if choice.unit == "token" else (position - pl.col("first")) / pl.col("count")).alias("place"),
        )
    )
    if choice.unit == "sequence" and choice.pool == "max":
        rows = (
            rows.sort("sequence_id", "feature", "position")
            .group_by("sequence_id", "feature", maintain_order=True)
            .agg(pl.col("activation").max(), pl.col("place", "position").get(pl.col("activation").arg_max()))
        )
    return rows.collect()


def units_of(layers: Sequence[pl.DataFrame], unit: Unit) -> pl.DataFrame:
    """The units that have a feature in any layer, sorted; their row is their number."""
    key = _KEY[unit]
    return pl.concat([rows.select(key).unique() for rows in layers]).unique().sort(key).with_row_index("unit")


def layer_features(
    rows: pl.DataFrame, units: pl.DataFrame, choice: Choice, d_sae: int, means: Float[np.ndarray, " feature"] | None
) -> LayerFeatures:
    """The `top_k` strongest features of each unit; ties go to the lower id. `means` divide activations."""
    joined = rows.join(units, on=_KEY[choice.unit])
    unit, feature = joined["unit"].to_numpy().astype(np.int64), joined["feature"].to_numpy().astype(np.int64)
    activation, place = joined["activation"].to_numpy(), joined["place"].to_numpy()
    if means is not None:
        activation = activation / means[feature]
    order = np.lexsort((feature, -activation, unit))
    kept = order[_place_in_unit(unit[order]) < choice.top_k]
    columns: list[np.ndarray] = [column[kept] for column in (unit, feature, activation, place)]
    if choice.zeros:
        filled = _silent(columns[0], columns[1], len(units), min(choice.top_k, d_sae))
        silence = np.zeros(len(filled[0]))
        columns = [np.concatenate(pair) for pair in zip(columns, (*filled, silence, silence), strict=True)]
    unit, feature, activation, place = columns
    order = np.lexsort((feature, unit))
    unit = unit[order]
    slot = _place_in_unit(unit)
    shape = (len(units), int(slot.max(initial=-1)) + 1)
    blocks = np.full(shape, -1, np.int64), np.zeros(shape), np.zeros(shape)
    for block, column in zip(blocks, (feature, activation, place), strict=True):
        block[unit, slot] = column[order]
    return LayerFeatures(*blocks)


def _place_in_unit(unit: np.ndarray) -> np.ndarray:
    """0, 1, 2... within each stretch of equal units."""
    starts = np.flatnonzero(np.diff(unit, prepend=-1))
    return np.arange(len(unit)) - np.repeat(starts, np.diff(starts, append=len(unit)))


def _silent(unit: np.ndarray, feature: np.ndarray, n_units: int, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Units and ids of silent features that fill each unit up to `top_k`: so many are always among the first ids."""
    silent = np.ones((n_units, top_k), bool)
    low = feature < top_k
    silent[unit[low], feature[low]] = False
    lacking = top_k - np.bincount(unit, minlength=n_units)
    unit, feature = np.nonzero(silent & (np.cumsum(silent, axis=1) <= lacking[:, None]))
    return unit, feature
