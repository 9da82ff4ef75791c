"""What a direction must beat: what is known of a problem with its prompt, and what with its answer, read from rows."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from ...lake.reading.frames import scan_files
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from ..attributes import metadata_values

MAJORITY, LEVEL = "majority", "level"
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Baseline:
    """What is known of each sequence, NaN where it is not; the majority needs nothing."""

    name: str
    group: str
    states: Float[np.ndarray, "sequence feature"] | None = None
    method: str = "mean-difference"
    reason: str | None = None


def baselines(snapshot: Snapshot, sequences: pl.DataFrame, at: str) -> list[Baseline]:
    """Those that states at `at` are judged against: later states against both groups."""
    tokens = _of_tokens(snapshot, sequences)
    found = [
        Baseline(MAJORITY, BEFORE),
        _measured("prompt tokens", BEFORE, sequences["n_prompt_tokens"]),
        _measured("mean prompt surprisal", BEFORE, tokens["prompt_surprisal"]),
        _level(sequences),
    ]
    if at == "prompt":
        return found
    names = {
        "mean answer surprisal": "mean_surprisal",
        "maximum answer surprisal": "max_surprisal",
        "mean answer entropy": "mean_entropy",
        "maximum answer entropy": "max_entropy",
    }
    found.append(_measured("answer tokens", AFTER, sequences["n_answer"]))
    return found + [_measured(name, AFTER, tokens[column]) for name, column in names.items()]


def _measured(name: str, group: str, values: pl.Series) -> Baseline:
    numbers = values.cast(pl.Float64).fill_null(np.nan).to_numpy()
    reason = None if np.isfinite(numbers).any() else "the run kept no distributions (--keep tokens)"
    return Baseline(name, group, numbers[:, None], reason=reason)


def _level(sequences: pl.DataFrame) -> Baseline:
    """The level of difficulty that the input gives, if it gives one: a share of true labels for each."""
    levels = metadata_values(sequences, LEVEL)
    known = [level for level in levels if level is not None]
    if not known:
        return Baseline(LEVEL, BEFORE, reason="the input gives no `level`")
    names = sorted(set(known))
    one_hot = np.array([[np.nan if x is None else float(x == n) for n in names] for x in levels])
    return Baseline(LEVEL, BEFORE, one_hot, "logistic")


def _of_tokens(snapshot: Snapshot, sequences: pl.DataFrame) -> pl.DataFrame:
    """Means and maxima over the tokens of each sequence, in the order of `sequences`."""
    answer = (pl.col("step") >= 0) & (pl.col("step") < pl.col("n_answer"))
    surprisal, entropy = pl.col("surprisal_bits").cast(pl.Float64), pl.col("entropy_bits").cast(pl.Float64)
    found = (
        scan_files(TABLES["token_steps"], snapshot)
        .join(sequences.lazy().select("sequence_id", "n_answer"), on="sequence_id")
        .group_by("sequence_id")
        .agg(
            surprisal.filter(pl.col("is_prompt")).mean().alias("prompt_surprisal"),
            surprisal.filter(answer).mean().alias("mean_surprisal"),
            surprisal.filter(answer).max().alias("max_surprisal"),
            entropy.filter(answer).mean().alias("mean_entropy"),
            entropy.filter(answer).max().alias("max_entropy"),
        )
        .collect()
    )
    return sequences.select("sequence_id").join(found, on="sequence_id", how="left", maintain_order="left")
