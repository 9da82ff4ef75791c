"""What a track is once all layers are done: when it was born, when it died, how active it was; arrays and frames."""

from collections.abc import Sequence

import numpy as np
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
    unit, track, layer = (points[name].to_numpy() for name in ("unit", "track", "layer"))
    # Points are sorted by unit and layer, and a stable order by track keeps the layers' order.
    order = np.argsort(unit * (int(track.max(initial=0)) + 1) + track, kind="stable")
    unit, track, layer, activation = unit[order], track[order], layer[order], points["activation"].to_numpy()[order]
    begins = np.flatnonzero((np.diff(unit, prepend=-1) != 0) | (np.diff(track, prepend=-1) != 0))
    ends, lengths = np.append(begins[1:], len(unit)) - 1, np.diff(np.append(begins, len(unit)))
    last = layer[ends]
    mean = _summed(activation, begins) / lengths
    columns = {
        "unit": unit[begins],
        "track": track[begins],
        "birth": layer[begins],
        "last": last,
        "n_layers": lengths.astype(np.int32),
        "max": np.maximum.reduceat(activation, begins) if len(begins) else activation,
        "mean": mean,
        "variance": _summed((activation - np.repeat(mean, lengths)) ** 2, begins) / lengths,
        "final": activation[ends],
    }
    lives = pl.col("last") >= n_layers - 1 - gap
    return pl.DataFrame(columns).with_columns(pl.when(~lives).then(pl.col("last")).alias("death"))


def _summed(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Sums of the pieces that begin there."""
    return np.add.reduceat(values, begins) if len(begins) else values
