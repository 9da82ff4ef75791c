"""How far each layer's reconstruction is from the state, and the eight numbers of its course through the layers."""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from ...lake import Lake
from ...lake.reading.batches import read_commits
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from .autoencoders import TrackedSae, weights

NAMES = (
    "error_mean", "error_std", "error_max", "error_min", "error_final", "error_growth", "error_max_layer",
    "error_late_ratio",
)  # fmt: skip
STRETCH, LATE = 6, 12
"""The late ratio compares the last `STRETCH` layers with the first ones, in at least `LATE` layers."""
TRANSCODER = "reconstruction: a transcoder reads another site than it writes"
NO_STATE = "reconstruction: no state is stored"
FEW_LAYERS = f"late ratio: fewer than {LATE} layers"
BLOCK = 4096


def squared_errors(
    lake: Lake, snapshot: Snapshot, sae: TrackedSae, tokens: pl.DataFrame, features: pl.LazyFrame
) -> Float[np.ndarray, " token"]:
    """Mean over dimensions of (state - reconstruction)^2 at tokens (sequence_id, position); NaN without a state."""
    from scipy.sparse import csr_matrix

    out = np.full(tokens.height, np.nan)
    held = weights(lake, sae)
    numbered = tokens.select("sequence_id", "position").with_row_index("token")
    active = features.join(numbered.lazy(), on=["sequence_id", "position"]).select("token", "feature", "activation")
    rows = active.collect()
    cells = (rows["token"].to_numpy(), rows["feature"].to_numpy())
    code: Any = csr_matrix((rows["activation"].to_numpy(), cells), shape=(tokens.height, sae.d_sae))
    for keys, vectors in read_commits(snapshot, TABLES["activations"], {"site": sae.site, "layer": sae.layer}):
        place = pl.DataFrame({
            "sequence_id": keys["sequence_id"].to_numpy(), "position": keys["position"].to_numpy(),
        }).with_row_index("row").join(numbered, on=["sequence_id", "position"])  # fmt: skip
        row, token = place["row"].to_numpy(), place["token"].to_numpy()
        for start in range(0, len(row), BLOCK):
            part = slice(start, start + BLOCK)
            error = vectors[row[part]] - (code[token[part]] @ held["W_dec"] + held["b_dec"])
            out[token[part]] = np.square(error, dtype=np.float64).mean(axis=1)
    return out


def course(errors: Float[np.ndarray, "token layer"], layers: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The eight numbers of each token, NaN where a layer's error is unknown or layers are too few; and the reasons."""
    n_layers = errors.shape[1]
    known = np.isfinite(errors.sum(axis=1))
    safe = np.where(known[:, None], errors, 0.0)
    numbers = {
        "error_mean": safe.mean(axis=1), "error_std": safe.std(axis=1), "error_max": safe.max(axis=1),
        "error_min": safe.min(axis=1), "error_final": safe[:, -1], "error_growth": safe[:, -1] - safe[:, 0],
        "error_max_layer": layers[safe.argmax(axis=1)].astype(np.float64),
        "error_late_ratio": safe[:, -STRETCH:].mean(axis=1) / (safe[:, :STRETCH].mean(axis=1) + 1e-8),
    }  # fmt: skip
    if n_layers < LATE:
        numbers["error_late_ratio"] = np.full(len(errors), np.nan)
    reason = np.where(known, FEW_LAYERS if n_layers < LATE else "", NO_STATE)
    return {name: np.where(known, values, np.nan) for name, values in numbers.items()}, reason
