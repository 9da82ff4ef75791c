"""The tables of the hand-made lake, cut to a few sequences."""

import functools

import polars as pl
from hand_made_lake import frames

N = 16

Tables = dict[str, pl.DataFrame]


@functools.cache
def tables() -> Tables:
    """The first sequences of the synthetic lake, with the best tokens of every position beside them."""
    found = {name: few(frame) for name, frame in frames().items()}
    tokens = found["token_steps"]
    logprobs = [-0.1 * (k + 1) ** 2 for k in range(10)]
    known = pl.col("entropy_bits").is_not_null()
    found["token_steps"] = tokens.with_columns(
        topk_ids=pl.when(known).then(pl.lit(list(range(10)), dtype=pl.List(pl.Int32))),
        topk_logprobs=pl.when(known).then(pl.lit(logprobs, dtype=pl.List(pl.Float32))),
    )
    return found


def few(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("sequence_id") < N) if "sequence_id" in frame.columns else frame
