"""What a track is once all layers are done: when it was born, when it died, how active it was; polars frames."""

from collections.abc import Sequence

import polars as pl

from .association import Points


def points_frame(points: Points, layers: Sequence[int]) -> pl.DataFrame:
    """The points as a frame; `layer` is the place among the tracked layers, `block` the model's layer."""
    return pl.DataFrame(dict(vars(points))).with_columns(
        pl.col("cost").fill_nan(None),
        pl.col("layer").replace_strict(list(range(len(layers))), list(layers), return_dtype=pl.Int32).alias("block"),
    )


def tracks_frame(points: pl.DataFrame, n_layers: int, gap: int) -> pl.DataFrame:
    """One row per track, layers as places; `death` is null if it lives at the last layer.

    A track without a feature for more than `gap` layers is dead since its last one.
    """
    last = pl.col("last")
    return (
        points.lazy()
        .group_by("unit", "track")
        .agg(
            pl.col("layer").min().alias("birth"),
            pl.col("layer").max().alias("last"),
            pl.len().cast(pl.Int32).alias("n_layers"),
            pl.col("activation").max().alias("max"),
            pl.col("activation").mean().alias("mean"),
            pl.col("activation").var(ddof=0).alias("variance"),
            pl.col("activation").last().alias("final"),  # points are sorted by layer, and groups keep their order
        )
        .with_columns(pl.when(n_layers - 1 - last > gap).then(last).alias("death"))
        .sort("unit", "track")
        .collect()
    )
