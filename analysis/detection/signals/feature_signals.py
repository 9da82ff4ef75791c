"""Signals from the features of autoencoders: their mean activations, errors, tracks and their controls."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace

import numpy as np
import polars as pl

from ....lake.derived import stored_analyses
from ....lake.reading.frames import scan_files
from ....lake.schema import TABLES
from ....lake.snapshot import Snapshot
from ....lake.values import JsonView
from ...tracks.autoencoders import FEATURES
from ...tracks.metrics import ASSOCIATED, NAMES
from ...tracks.question import HypothesisTracks
from ...tracks.reconstruction import NAMES as ERRORS
from .signal import Block, Signal, absent

TRACKS = "tracks"
LEAST_SHARE = 0.01
"""Features active in a smaller share of the answers are left out."""
SEED = 0
"""Of the permuted decoder."""
CONTROLS: Mapping[str, JsonView] = {
    "decoder permuted": {"permute_decoder": SEED},
    "no association": {"method": "none"},
    "feature-id": {"method": "feature-id"},
    "top-1": {"method": "top-1"},
}
NO_TRACKS = "no tracks are stored: `lake analyze tracks{}` follows them"


def features(snapshot: Snapshot, sequences: pl.DataFrame) -> Signal:
    """Mean activation over the answer of every feature, layer by layer, by logistic regression with an L1 penalty."""
    [log] = snapshot.runs.values()
    whole = [one for one in stored_analyses(log).values() if one.name == FEATURES and one.n_rows.get("analyses")]
    if not whole:
        return absent("features", "no features are stored: `lake sae features SAE` writes those of an autoencoder")
    blocks = [_means(snapshot, sequences, str(one.parameters["sae_id"])) for one in whole]
    return Signal("features", tuple(blocks), ("lasso",))


def _means(snapshot: Snapshot, sequences: pl.DataFrame, sae_id: str) -> Block:
    numbered = sequences.select("sequence_id", "n_prompt_tokens", "n_answer").with_row_index("row")
    step = pl.col("position") - pl.col("n_prompt_tokens")
    rows = (
        scan_files(TABLES["sae_features"], snapshot)
        .filter(pl.col("sae_id") == sae_id)
        .join(numbered.lazy(), on="sequence_id")
        .filter((step >= 0) & (step < pl.col("n_answer")))
        .group_by("row", "feature")
        .agg((pl.col("activation").cast(pl.Float64).sum() / pl.col("n_answer").first()).alias("mean"))
        .collect()
    )
    common = rows.group_by("feature").len().filter(pl.col("len") >= LEAST_SHARE * sequences.height).sort("feature")
    numbers = common["feature"].to_numpy()
    rows = rows.filter(pl.col("feature").is_in(numbers.tolist()))
    values = np.zeros((sequences.height, len(numbers)))
    values[rows["row"].to_numpy(), np.searchsorted(numbers, rows["feature"].to_numpy())] = rows["mean"].to_numpy()
    values[sequences["n_answer"].to_numpy() == 0] = np.nan
    # A feature that another run never has active has the mean 0 there.
    return Block(sae_id, tuple(f"{sae_id}:{n}" for n in numbers), values, lacking=0.0)


def stored_tracks(snapshot: Snapshot, profile: str) -> HypothesisTracks | None:
    """The newest stored question about tracks of that profile that is no control."""
    [log] = snapshot.runs.values()
    plain = [
        question
        for one in stored_analyses(log).values()
        if one.name == TRACKS and one.parameters["profile"] == profile
        if not _is_control(question := _question(one.parameters))
    ]
    return plain[-1] if plain else None


def _question(parameters: JsonView) -> HypothesisTracks:
    names = {one.name for one in fields(HypothesisTracks)}
    return HypothesisTracks(**{name: value for name, value in parameters.items() if name in names})


def _is_control(question: HypothesisTracks) -> bool:
    return question.permute_decoder is not None or question.method in ("none", "feature-id", "top-1")


def control_questions(snapshot: Snapshot) -> list[HypothesisTracks]:
    """The controls of the stored tracks, of which only the numbers are wanted."""
    plain = [one for profile in ("default", "source") if (one := stored_tracks(snapshot, profile)) is not None]
    return [replace(one, **changed, metrics_only=True) for one in plain for changed in CONTROLS.values()]


def tracks(snapshot: Snapshot, sequences: pl.DataFrame, *, profile: str, associated: bool = False) -> Iterator[Signal]:
    """The numbers of stored tracks (of tokens: mean, largest and last over the answer), then of each stored control."""
    name = "tracks-churn" if associated else "tracks" if profile == "default" else f"tracks-{profile}"
    plain = stored_tracks(snapshot, profile)
    if plain is None:
        yield absent(name, NO_TRACKS.format("" if profile == "default" else f" --profile {profile}"))
        return
    columns = ASSOCIATED if associated else NAMES
    yield _of_metrics(snapshot, sequences, name, plain, columns)
    for control, changed in CONTROLS.items():
        asked = replace(plain, **changed)
        if not associated and _analysis_of(snapshot, asked) is not None:
            yield replace(_of_metrics(snapshot, sequences, name, asked, columns), control=control)


def reconstruction(snapshot: Snapshot, sequences: pl.DataFrame) -> Signal:
    """The reconstruction errors that stand beside the numbers of tracks."""
    plain = stored_tracks(snapshot, "default") or stored_tracks(snapshot, "source")
    if plain is None:
        return absent("reconstruction", NO_TRACKS.format(""))
    return _of_metrics(snapshot, sequences, "reconstruction", plain, ERRORS)


def _analysis_of(snapshot: Snapshot, asked: HypothesisTracks) -> str | None:
    """The newest stored analysis that asked this, whether or not it wrote tracks besides numbers."""
    [log] = snapshot.runs.values()
    ids = [
        one.analysis_id
        for one in stored_analyses(log).values()
        if one.name == TRACKS and replace(_question(one.parameters), metrics_only=asked.metrics_only) == asked
    ]
    return ids[-1] if ids else None


def _of_metrics(
    snapshot: Snapshot, sequences: pl.DataFrame, name: str, asked: HypothesisTracks, columns: tuple[str, ...]
) -> Signal:
    rows = scan_files(TABLES["track_metrics"], snapshot).filter(pl.col("analysis_id") == _analysis_of(snapshot, asked))
    if asked.unit == "token":
        rows = rows.filter(pl.col("over").is_not_null())
    wide = (
        rows.select("sequence_id", pl.col("over").fill_null("sequence"), *columns)
        .collect()
        .pivot("over", index="sequence_id", values=list(columns), separator=":", sort_columns=True)
    )
    joined = sequences.select("sequence_id").join(wide, on="sequence_id", how="left", maintain_order="left")
    values = joined.drop("sequence_id").fill_null(np.nan)
    if not values.width or not np.isfinite(values.to_numpy()).any():
        return absent(name, "the stored tracks have no number: see their `reason`")
    return Signal(name, (Block(name, tuple(values.columns), values.to_numpy()),))
