"""Which autoencoders tracks go through: one per layer, of one site, without a missing layer, with stored features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ...lake import Lake
from ...lake.derived import stored_analyses
from ...lake.errors import ConfigError, NotFoundError, UsageError, did_you_mean
from ...lake.values import Row

FEATURES = "sae-features"
"""Name of the analysis that writes `sae_features`."""


@dataclass(frozen=True)
class TrackedSae:
    """An autoencoder of one tracked layer."""

    sae_id: str
    run_id: str
    layer: int
    site: str
    d_sae: int
    writes_elsewhere: bool
    """Whether it is a transcoder: what it reconstructs is not what it reads."""


def named_saes(lake: Lake, run_id: str, saes: str | None, *, with_features: bool = True) -> list[str]:
    """Ids in the order of layers: those that `saes` means, or those whose features the run stores.

    NotFoundError if `with_features` and the run lacks those of one.
    """
    stored = stored_features(lake, run_id)
    if saes is None and not stored:
        raise NotFoundError(
            f"Run {run_id} stores no features, so there is nothing to follow. "
            f"`lake sae features SAE --run {run_id}` writes those of one autoencoder, `lake sae list` lists them."
        )
    ids = [sae.sae_id for sae in chosen(lake, saes if saes is not None else ",".join(stored))]
    if with_features and (lacking := [one for one in ids if one not in stored]):
        raise NotFoundError(
            f"Run {run_id} stores no features of {', '.join(lacking)}. Stored: {', '.join(stored) or 'none'}. "
            f"`lake sae features {lacking[0]} --run {run_id}` writes them."
        )
    return ids


def stored_features(lake: Lake, run_id: str) -> list[str]:
    """Ids of the autoencoders whose features are completely in the run."""
    stored = stored_analyses(lake.snapshot(run_id).runs[run_id]).values()
    whole = [one for one in stored if one.name == FEATURES and one.n_rows.get("analyses")]
    return list(dict.fromkeys(str(one.parameters["sae_id"]) for one in whole))


def chosen(lake: Lake, saes: str) -> list[TrackedSae]:
    """Those that `saes` means (ids, beginnings of them, or the run that made them), by layer; ConfigError if unfit."""
    rows = lake.scan("saes").collect().sort("run_id", "layer", "sae_id").to_dicts()
    found: dict[str, TrackedSae] = {}
    for part in [one.strip() for one in saes.split(",") if one.strip()]:
        for row in _meant(lake, rows, part):
            elsewhere = (row["to_site"], row["to_layer"]) not in ((None, None), (row["site"], row["layer"]))
            found[row["sae_id"]] = TrackedSae(
                row["sae_id"], row["run_id"], row["layer"], row["site"], row["d_sae"], elsewhere
            )
    listed = sorted(found.values(), key=lambda sae: sae.layer)
    _check(listed, saes)
    return listed


def _meant(lake: Lake, rows: Sequence[Row], part: str) -> list[Row]:
    exact = [row for row in rows if row["sae_id"] == part]
    if fitting := exact or [row for row in rows if row["sae_id"].startswith(part)]:
        if len(fitting) > 1:
            raise UsageError(f"{part!r} is ambiguous: {', '.join(row['sae_id'] for row in fitting)}.")
        return fitting
    try:
        run_id = lake.resolve_run(part)
    except NotFoundError as error:
        ids = dict.fromkeys(str(row["sae_id"]) for row in rows)
        raise NotFoundError(f"There is no autoencoder and no run {part!r}.{did_you_mean(part, ids)}") from error
    made = [row for row in rows if row["run_id"] == run_id]
    if not made:
        raise NotFoundError(f"Run {run_id} made no autoencoder. `lake sae list` says which there are.")
    return made


def _check(saes: Sequence[TrackedSae], asked: str) -> None:
    if not saes:
        raise UsageError(f"--saes {asked!r} names no autoencoder.")
    about = ", ".join(f"{sae.sae_id} (layer {sae.layer}, {sae.site})" for sae in saes)
    layers = [sae.layer for sae in saes]
    if len({sae.site for sae in saes}) > 1:
        raise ConfigError(f"Tracks go through one site; these read several: {about}. Name those of one with --saes.")
    if twice := sorted({layer for layer in layers if layers.count(layer) > 1}):
        raise ConfigError(f"Layer {twice[0]} has several autoencoders: {about}. Name one per layer with --saes.")
    if missing := sorted(set(range(layers[0], layers[-1])) - set(layers)):
        raise ConfigError(
            f"Between layers {layers[0]} and {layers[-1]} there is no autoencoder of layer {missing[0]}: {about}. "
            "A track would skip it unseen. Train it, or name layers without a hole with --saes."
        )


def decoder(lake: Lake, sae: TrackedSae) -> Float[np.ndarray, "feature dim"]:
    """The decoder rows."""
    return weights(lake, sae)["W_dec"]


def weights(lake: Lake, sae: TrackedSae) -> dict[str, np.ndarray]:
    """All weights by name."""
    from ..sae.folder import load_sae

    return {name: tensor.numpy() for name, tensor in load_sae(lake, sae.sae_id).weights.items()}
