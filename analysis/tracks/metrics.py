"""The 26 numbers of how tracks diverge, of all units at once; polars frames."""

import polars as pl

ENTROPY = ("entropy_mean", "entropy_max", "entropy_std", "entropy_final")
CHURN = ("total_births", "total_deaths", "birth_rate", "death_rate", "churn_ratio", "survival_rate")
COMPETITION = (
    "competition_mean", "competition_max", "competition_std", "competition_final", "high_competition_ratio",
)  # fmt: skip
STABILITY = ("stability_mean", "stability_min", "low_stability_ratio")
DOMINANCE = ("dominance_mean", "dominance_min", "dominance_final", "low_dominance_ratio")
DENSITY = ("density_mean", "density_max", "density_std", "max_concurrent_tracks")
NAMES = (*ENTROPY, *CHURN, *COMPETITION, *STABILITY, *DOMINANCE, *DENSITY)
ASSOCIATED = (*CHURN, *STABILITY)
"""The nine that depend on what is matched; the others hardly do."""
COMPETING = 0.5
"""A track above this activation competes."""
CROWD = 2
"""More competing tracks than this are high competition."""
STEADY, DOMINANT = 0.5, 0.5
NO_TRACK = "no track: no feature was above --birth"


def metrics(points: pl.DataFrame, tracks: pl.DataFrame, n_units: int, n_layers: int) -> pl.DataFrame:
    """One row per unit, from 0 to `n_units`: the 26, null with a reason where the unit has no track."""
    layers = layer_frame(points, tracks, n_units, n_layers)
    of_layers = layers.group_by("unit").agg(
        *_summary("entropy", "mean", "max", "std", "final"),
        *_summary("competition", "mean", "max", "std", "final"),
        (pl.col("competition") > CROWD).mean().alias("high_competition_ratio"),
        *_summary("dominance", "mean", "min", "final"),
        (pl.col("dominance") < DOMINANT).mean().alias("low_dominance_ratio"),
        *_summary("density", "mean", "max", "std"),
        pl.col("density").max().alias("max_concurrent_tracks"),
    )
    # Variances are not negative, so a stability lies in (0, 1]; tracks of one layer have none.
    stability = (1 / (1 + pl.col("variance"))).filter(pl.col("n_layers") >= 2)
    births, deaths = pl.len(), pl.col("death").is_not_null().sum()
    of_tracks = tracks.lazy().group_by("unit").agg(
        births.alias("total_births"),
        deaths.alias("total_deaths"),
        (births / n_layers).alias("birth_rate"),
        (deaths / n_layers).alias("death_rate"),
        ((births + deaths) / (2 * n_layers)).alias("churn_ratio"),
        (1 - deaths / births).alias("survival_rate"),
        stability.mean().fill_null(0).alias("stability_mean"),
        stability.min().fill_null(0).alias("stability_min"),
        (stability < STEADY).mean().fill_null(0).alias("low_stability_ratio"),
    )  # fmt: skip
    return (
        of_tracks.join(of_layers, on="unit")
        .select(pl.col("unit").cast(pl.Int64), *(pl.col(name).cast(pl.Float64) for name in NAMES))
        .join(pl.LazyFrame({"unit": range(n_units)}, schema={"unit": pl.Int64}), on="unit", how="right")
        .with_columns(pl.when(pl.col("total_births").is_null()).then(pl.lit(NO_TRACK)).alias("reason"))
        .select("unit", *NAMES, "reason")
        .sort("unit")
        .collect()
    )


def layer_frame(points: pl.DataFrame, tracks: pl.DataFrame, n_units: int, n_layers: int) -> pl.LazyFrame:
    """Entropy, competition, dominance and density of every unit and layer (as a place among the tracked ones)."""
    a, total = pl.col("activation"), pl.col("activation").sum()
    # In bits: H(a / s) = log2 s - (sum of a log2 a) / s; a single track has none, whatever is lost in rounding.
    surprise = pl.when(a > 0).then(a * a.log(2)).otherwise(0.0)
    of_points = points.lazy().group_by("unit", "layer").agg(
        pl.when(total > 0).then(total.log(2) - surprise.sum() / total).otherwise(0.0).clip(0).alias("entropy"),
        (a > COMPETING).sum().alias("competition"),
        pl.when(total > 0).then(a.max() / total).otherwise(0.0).alias("dominance"),
    )  # fmt: skip
    born = tracks.lazy().group_by("unit", pl.col("birth").alias("layer")).agg(pl.len().alias("born"))
    gone = (
        tracks.lazy()
        .filter(pl.col("death").is_not_null())
        .group_by("unit", (pl.col("death") + 1).alias("layer"))
        .agg(pl.len().alias("gone"))
    )
    grid = pl.LazyFrame({"unit": range(n_units)}, schema={"unit": pl.Int64}).join(
        pl.LazyFrame({"layer": range(n_layers)}, schema={"layer": pl.Int64}), how="cross"
    )
    for frame in (of_points, born, gone):
        grid = grid.join(frame, on=["unit", "layer"], how="left")
    counts = [pl.col(name).fill_null(0).cast(pl.Int64) for name in ("competition", "born", "gone")]
    return (
        grid.with_columns(pl.col("entropy", "dominance").fill_null(0.0), *counts)
        .sort("unit", "layer")
        .with_columns((pl.col("born") - pl.col("gone")).cum_sum().over("unit").alias("density"))
    )


def _summary(name: str, *kinds: str) -> list[pl.Expr]:
    """Over the layers of a unit, which are in order; the standard deviation is the population's."""
    column = pl.col(name)
    made = {
        "mean": column.mean(), "max": column.max(), "min": column.min(), "std": column.std(ddof=0),
        "final": column.last(),
    }  # fmt: skip
    return [made[kind].alias(f"{name}_{kind}") for kind in kinds]
