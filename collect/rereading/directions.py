"""The direction that an experiment is given: one vector of final-normed space, out of a `.npy` file or the lake."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ...lake import Lake
from ...lake.errors import ConfigError, NotFoundError, UsageError, did_you_mean
from ...lake.schema import TABLES
from ..stored_sequences import model_facts

SITE = "final_norm"


@dataclass(frozen=True)
class Direction:
    """A vector with the name it was given by; its length does not matter."""

    name: str
    vector: Float[Tensor, " d_model"]
    run_id: str | None = None
    """The run that it was fitted on, if it is a stored one."""

    @property
    def sha256(self) -> str:
        """Of the values in float64."""
        return hashlib.sha256(self.vector.double().numpy().tobytes()).hexdigest()

    def check_run(self, lake: Lake, run_id: str) -> None:
        """ConfigError if it does not lie in the space of the run's final states, or was fitted on another model's."""
        model = model_facts(lake, run_id)
        d_model = model.get("d_model")
        if d_model is not None and len(self.vector) != d_model:
            raise ConfigError(
                f"Direction {self.name} has {len(self.vector)} elements, the final states of run {run_id} have "
                f"{d_model}: it is of another model.{_usable(lake, run_id)}"
            )
        if self.run_id is None or self.run_id == run_id:
            return
        weights = [one.get("weights_sha256") for one in (model, model_facts(lake, self.run_id))]
        if None not in weights and weights[0] != weights[1]:
            raise ConfigError(
                f"Direction {self.name} was fitted on run {self.run_id}, whose model has other weights than that of "
                f"run {run_id}.{_usable(lake, run_id)}"
            )


def _usable(lake: Lake, run_id: str) -> str:
    """The stored directions of the model of a run, in words."""
    weights = model_facts(lake, run_id).get("weights_sha256")
    rows = lake.scan("directions").filter(pl.col("site") == SITE).select("run_id", "direction_id").unique().collect()
    mine = sorted({name for run, name in rows.iter_rows() if model_facts(lake, run).get("weights_sha256") == weights})
    if not mine:
        return f" There is none of this model: lake analyze directions {run_id} --site {SITE} makes one."
    return f" Directions of this model: {', '.join(mine[:10])}{' ...' if len(mine) > 10 else ''}."


def find_direction(lake: Lake, given: str) -> Direction:
    """The direction in a `.npy` file, or the stored one of this id; errors say what there is."""
    if not given:
        raise UsageError("Name a direction: --direction FILE.npy (one vector), or the id of a stored one.")
    if given.endswith(".npy") or "/" in given:
        return read_direction(Path(given))
    return _stored(lake, given)


def read_direction(path: Path) -> Direction:
    """The one vector of a `.npy` file; NotFoundError or ConfigError that say what is wrong with it."""
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}. A direction is a .npy file with one vector.")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ConfigError(f"{path} is no .npy file of numbers: {str(error).splitlines()[0]}") from error
    return checked_direction(path.name, array)


def checked_direction(name: str, array: np.ndarray) -> Direction:
    """A vector that can be a direction; ConfigError if it is not one vector of finite numbers, or zero."""
    vector = np.squeeze(array)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu":
        raise ConfigError(f"{name} holds {array.dtype} of shape {array.shape}; a direction is one vector of numbers.")
    vector = vector.astype(np.float64)
    if not np.isfinite(vector).all():
        raise ConfigError(f"{name} holds NaN or infinity; a direction is one vector of finite numbers.")
    if not np.any(vector):
        raise ConfigError(f"{name} holds a vector of zeros, which has no direction.")
    return Direction(name, torch.from_numpy(vector))


def _stored(lake: Lake, direction_id: str) -> Direction:
    """The stored direction of this id; NotFoundError with those that exist, ConfigError if it is of another site."""
    stored = lake.scan("directions").select("direction_id", "site").collect() if "directions" in TABLES else None
    usable = [] if stored is None else stored.filter(pl.col("site") == SITE)["direction_id"].unique().to_list()
    if stored is None or direction_id not in stored["direction_id"].to_list():
        raise NotFoundError(
            f"There is no direction {direction_id!r}.{did_you_mean(direction_id, usable)} "
            "`lake analyze directions RUN --site final_norm` makes them; a .npy file with one vector is taken too."
        )
    if direction_id not in usable:
        site = stored.filter(pl.col("direction_id") == direction_id)["site"][0]
        raise ConfigError(
            f"Direction {direction_id} lies in states of {site}; an effect is measured in final states (site {SITE})."
            f"{did_you_mean(direction_id, usable)}"
        )
    with lake.connect() as connection:
        rows = connection.sql("select run_id, vector from directions where direction_id = ? limit 1", [direction_id])
    return replace(checked_direction(direction_id, np.array(rows["vector"][0])), run_id=rows["run_id"][0])
