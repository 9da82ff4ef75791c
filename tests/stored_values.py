"""Stored columns against those of a plain pass, within the tolerances of the definitions."""

import numpy as np
import polars as pl

TOPK = 10


def assert_close(name: str, found: pl.Series | np.ndarray, wanted: np.ndarray) -> None:
    """Equal within the tolerance, with nulls exactly where `wanted` is NaN."""
    if isinstance(found, pl.Series):
        missing, found = found.is_null().to_numpy(), found.cast(pl.Float64).to_numpy()
    else:
        missing = np.isnan(found)
    assert found.shape == wanted.shape, f"{name}: {found.shape} values, {wanted.shape} wanted"
    assert (missing == np.isnan(wanted)).all(), f"{name}: null in {missing.sum()} rows, {np.isnan(wanted).sum()} wanted"
    off = np.abs(found - wanted) - (1e-5 + 1e-4 * np.abs(wanted))
    worst = np.nanargmax(off) if not missing.all() else 0
    assert missing.all() or off[worst] <= 0, f"{name}: {found[worst]} in row {worst}, {wanted[worst]} wanted"


def check_topk(ids: pl.Series, values: pl.Series, logprobs: np.ndarray) -> None:
    """The ten best tokens by falling probability; ids of equally probable tokens may trade places."""
    found_ids, found = np.array(ids.to_list()), np.array(values.to_list(), dtype=np.float64)
    assert found_ids.shape == found.shape == (len(logprobs), TOPK)
    assert_close("topk_logprobs", found.ravel(), -np.sort(-logprobs, axis=-1)[:, :TOPK].ravel())
    assert_close("topk_ids", found.ravel(), np.take_along_axis(logprobs, found_ids, -1).ravel())
    assert (np.diff(found, axis=-1) <= 0).all()
    assert all(len(set(row)) == TOPK for row in found_ids.tolist())
