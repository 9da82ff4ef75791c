"""Directions that are in a lake, whatever made them, and how one from elsewhere gets there."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import polars as pl
from jaxtyping import Float

from ...lake import Lake
from ...lake.errors import ConfigError, NotFoundError, did_you_mean
from ...lake.snapshot import Snapshot
from ...lake.values import Json, Row
from ..question import Answer, Evidence, Question, Reads, Rows, ask
from ..row_columns import columns_of
from .identity import direction_id

VERSION = 1


@dataclass(frozen=True, eq=False)
class StoredDirection:
    """One row of `directions`."""

    direction_id: str
    method: str
    site: str
    layer: int
    norm: float
    control_of: str | None
    vector: Float[np.ndarray, " dim"]


def stored_directions(
    lake: Lake, *, ids: Sequence[str] | None = None, run: str | None = None, analysis_id: str | None = None
) -> list[StoredDirection]:
    """The directions of these ids (in their order), or those of one analysis; NotFoundError names what there is."""
    columns = ("direction_id", "method", "site", "layer", "norm", "control_of", "vector", "dim", "dtype")
    rows = lake.scan("directions", run=run)
    if analysis_id is not None:
        rows = rows.filter(pl.col("analysis_id") == analysis_id)
    if ids is not None:
        known = rows.select("direction_id").unique().collect()["direction_id"].to_list()
        if missing := [one for one in ids if one not in known]:
            raise NotFoundError(f"There is no direction {missing[0]!r}.{did_you_mean(missing[0], sorted(known))}")
        rows = rows.filter(pl.col("direction_id").is_in(list(ids)))
    frame = rows.select(columns).unique("direction_id", keep="first", maintain_order=True).collect()
    found = [
        StoredDirection(
            row["direction_id"], row["method"], row["site"], row["layer"], row["norm"], row["control_of"],
            np.frombuffer(row["vector"], "<f4").astype(np.float64),
        )
        for row in frame.iter_rows(named=True)
    ]  # fmt: skip
    return found if ids is None else sorted(found, key=lambda one: list(ids).index(one.direction_id))


def direction_rows(
    method: str, site: str, layer: int, vectors: Float[np.ndarray, "direction dim"], about: Sequence[Row]
) -> Json:
    """Rows of `directions` as `append_vectors` takes them; `about` has the further columns of each."""
    stored = np.asarray(vectors, np.float32)
    rows = [
        {
            "direction_id": direction_id(method, site, layer, vector), "method": method, "site": site, "layer": layer,
            "norm": float(np.linalg.norm(vector.astype(np.float64))), **more,
        }
        for vector, more in zip(stored, about, strict=True)
    ]  # fmt: skip
    return {"table": "directions", "columns": columns_of(rows), "vectors": stored, "dtype": "float32"}


def given_direction(
    lake: Lake, run: str, vector: Float[np.ndarray, " dim"], site: str, layer: int, name: str
) -> Answer:
    """Keep a vector of your own among a run's directions, under the name of where it comes from."""
    return ask(lake, run, GivenDirection(vector=checked_vector(vector, name), site=site, layer=layer, label=name))


def checked_vector(vector: np.ndarray, name: str) -> np.ndarray:
    """The vector; ConfigError for one that is no direction."""
    if not np.isfinite(vector).all():
        raise ConfigError(f"{name} holds NaN or infinity; a direction is one vector of finite numbers.")
    if not np.any(vector):
        raise ConfigError(f"{name} holds a vector of zeros, which has no direction.")
    return vector


@dataclass(frozen=True)
class GivenDirection(Question):
    """A vector from elsewhere, kept as a direction."""

    name: ClassVar[str] = "given-direction"
    site: str = "resid_post"
    layer: int = 0
    label: str = ""
    vector: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)

    def resolve(self, snapshot: Snapshot) -> Self:
        """Nothing is open; ConfigError where the model's states have another width."""
        [log] = snapshot.runs.values()
        width = (log.run_json.get("model") or {}).get("d_model")
        plain = self.site in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "final_norm")
        if plain and isinstance(width, int) and width != len(self.vector):
            raise ConfigError(
                f"{self.label} has {len(self.vector)} elements, {self.site} of run {log.run_id} has {width}: it is of "
                "another model."
            )
        return self

    def reads(self) -> Reads:
        """Nothing of the run."""
        return []

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """Where it lies, and a digest of it."""
        sha = hashlib.sha256(np.ascontiguousarray(self.vector, "<f4").tobytes()).hexdigest()
        return {"site": self.site, "layer": self.layer, "label": self.label, "sha256": sha, "version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """One row."""
        about = [{"at": None, "unit": None, "label": self.label}]
        return Rows({}, 0, [], [direction_rows("given", self.site, self.layer, self.vector[None], about)])
