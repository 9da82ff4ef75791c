"""The points of stored sequences at which a choice between two tokens is looked at."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import polars as pl

from ...lake import Lake
from ...lake.errors import NotFoundError, UsageError
from ...lake.values import Json


@dataclass(frozen=True)
class Point:
    """A position whose state predicts the next token, and the two candidates that are compared."""

    sequence_id: int
    position: int
    token_a: int
    token_b: int


@dataclass(frozen=True)
class PointOptions:
    """Which points: of these sequences and steps, the `closest` ones by margin; or one pair of tokens everywhere."""

    sequences: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    closest: int | None = 200
    tokens: tuple[int, int] | None = None
    at: tuple[Point, ...] = ()
    """Exactly these, whatever else is said."""

    def as_dict(self) -> Json:
        """Plain values for the parameters of an analysis."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return plain | {"at": None} if self.at else {name: value for name, value in plain.items() if name != "at"}


def choose_points(lake: Lake, run_id: str, options: PointOptions) -> list[Point]:
    """The generated tokens that the options mean, as the positions before them, sorted by sequence and position."""
    if options.at:
        return sorted(options.at, key=lambda point: (point.sequence_id, point.position))
    if options.closest is not None and options.closest < 1:
        raise UsageError(f"--points must be at least 1, not {options.closest}.")
    steps = (
        lake.scan("token_steps", run_id)
        .filter(pl.col("step").is_not_null() & (pl.col("position") > 0))
        .select("sequence_id", "position", "step", "margin", "topk_ids")
        .sort("sequence_id", "position")
        .collect()
    )
    if not steps.height:
        raise NotFoundError(f"Run {run_id} generated no tokens: nothing was chosen.")
    steps = _only(steps, "sequence_id", options.sequences, run_id)
    steps = _only(steps, "step", options.steps, run_id)
    if options.tokens is not None:
        _check_tokens(lake, run_id, options.tokens)
        a, b = options.tokens
        chosen = steps.with_columns(a=pl.lit(a), b=pl.lit(b))
    else:
        chosen = steps.filter(pl.col("topk_ids").list.len() >= 2).with_columns(
            a=pl.col("topk_ids").list.get(0, null_on_oob=True), b=pl.col("topk_ids").list.get(1, null_on_oob=True)
        )
        if not chosen.height:
            raise NotFoundError(
                f"Run {run_id} did not keep the candidates of each token (--keep tokens). Name two tokens instead: "
                "--tokens A,B"
            )
    if options.closest is not None:
        chosen = chosen.sort("margin", "sequence_id", "position", nulls_last=True).head(options.closest)
    rows = chosen.sort("sequence_id", "position").select("sequence_id", "position", "a", "b").rows()
    return [Point(sequence_id, position - 1, int(a), int(b)) for sequence_id, position, a, b in rows]


def sensitive_points(lake: Lake, run_id: str, analysis_id: str, n: int) -> list[Point]:
    """The `n` points of a sensitivity where one other token moved the answer most; whole windows only."""
    rows = (
        lake.scan("path_sensitivity", run_id)
        .filter((pl.col("analysis_id") == analysis_id) & pl.col("complete"))
        .sort(["divergence", "sequence_id", "step"], descending=[True, False, False])
        .head(n)
        .select("sequence_id", "position", "token_id", "alternative_id")
        .collect()
    )
    return [Point(sequence_id, position - 1, a, b) for sequence_id, position, a, b in rows.iter_rows()]


def _only(steps: pl.DataFrame, column: str, wanted: Sequence[int] | None, run_id: str) -> pl.DataFrame:
    if wanted is None:
        return steps
    kept = steps.filter(pl.col(column).is_in(list(wanted)))
    if missing := sorted(set(wanted) - set(kept[column].to_list())):
        low, high = steps[column].min(), steps[column].max()
        word = "step" if column == "step" else "sequence with generated tokens"
        raise NotFoundError(f"Run {run_id} has no {word} {missing[0]}; there are {low} to {high}.")
    return kept


def _check_tokens(lake: Lake, run_id: str, tokens: tuple[int, int]) -> None:
    d_vocab = (lake.run_json(run_id).get("model") or {}).get("d_vocab")
    for token in tokens:
        if token < 0 or (isinstance(d_vocab, int) and token >= d_vocab):
            raise UsageError(f"There is no token {token}: ids go from 0 to {(d_vocab or 1) - 1}.")
    if tokens[0] == tokens[1]:
        raise UsageError(f"Two different tokens are compared, not {tokens[0]} with itself.")
