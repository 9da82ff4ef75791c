"""Directions that analyses have stored in a lake, by their ids."""

import numpy as np

from ...lake import TABLES, Lake
from ...lake.errors import NotFoundError, UsageError, did_you_mean

TABLE = "directions"


class StoredDirections:
    """Looks up vectors in one lake; without a lake there are none."""

    def __init__(self, lake: Lake | None) -> None:
        self.lake = lake

    def __call__(self, direction_id: str) -> np.ndarray:
        """The vector of a direction, in float32; NotFoundError that names those that exist."""
        import polars as pl  # an eighth of a second: few runs name a direction

        files = "A file's name ends in .npy or .safetensors."
        if self.lake is None or TABLE not in TABLES:
            raise UsageError(f"Direction {direction_id!r} is no file, and there is no lake to look it up in. {files}")
        known = self.lake.scan(TABLE).select("direction_id").unique().collect()["direction_id"].to_list()
        if direction_id not in known:
            near = did_you_mean(direction_id, known)
            raise NotFoundError(f"There is no direction {direction_id!r} in {self.lake.path}.{near} {files}")
        with self.lake.connect() as connection:
            rows = connection.sql(f"SELECT vector FROM {TABLE} WHERE direction_id = ? LIMIT 1", [direction_id])
        return np.array(rows["vector"].cast(pl.List(pl.Float32))[0].to_list(), dtype=np.float32)
