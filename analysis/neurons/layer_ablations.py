"""What each ablated layer costs: loss and accuracy over problems, against the unedited model on the same problems."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import polars as pl
from jaxtyping import Float

from ...lake import Lake
from ...lake.reading.frames import scan_files
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from ...lake.values import Json, Row
from ..intervals import ONE_PROMPT, drawn_counts
from ..option import option
from ..question import Evidence, Question, Reads, Rows
from ..row_columns import columns_of
from .stored import whole_analysis

PROBLEMS, NAME, NONE = "ablated_problems", "ablation", "none"


@dataclass(frozen=True)
class LayerAblations(Question):
    """What the model loses without each layer's attention or MLP: loss and accuracy with intervals over problems."""

    name: ClassVar[str] = "layer-ablations"

    ablation_id: str | None = option(
        None, "The analysis of `lake experiment ablation` to read; the newest if not given.", flag="--ablation"
    )

    def resolve(self, snapshot: Snapshot) -> Self:
        """With the newest ablation of the run; NotFoundError if it has none."""
        return replace(self, ablation_id=whole_analysis(snapshot, NAME, self.ablation_id, "lake experiment ablation"))

    def reads(self) -> Reads:
        """The problems under all conditions."""
        return [(PROBLEMS, {"analysis_id": self.ablation_id or ""})]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """Whose problems are read."""
        return {"ablation": self.ablation_id}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """Condition by condition, each beside the unedited model."""
        frame = scan_files(TABLES[PROBLEMS], runs[0].snapshot).filter(pl.col("analysis_id") == self.ablation_id)
        problems = frame.sort("sequence_id").collect()
        whole = problems.filter(pl.col("action") == NONE)
        rows = [_row(part, whole) for part in _conditions(problems)]
        table = columns_of([row | {"ablation_id": self.ablation_id} for row in rows])
        return Rows({"layer_ablations": table}, whole.height)


def _conditions(problems: pl.DataFrame) -> list[pl.DataFrame]:
    return problems.partition_by("site", "layer", "action", maintain_order=True)


def _row(part: pl.DataFrame, whole: pl.DataFrame) -> Row:
    first = part.row(0, named=True)
    about = {name: first[name] for name in ("site", "layer", "action", "scope")}
    loss, whole_loss, n_tokens = (one.to_numpy() for one in (part["loss"], whole["loss"], part["n_tokens"]))
    right, whole_right = (one["correct"].cast(pl.Float64).to_numpy() for one in (part, whole))
    losses = change_over_problems(loss, whole_loss, n_tokens.astype(np.float64))
    rights = change_over_problems(right, whole_right, np.ones(len(right)))
    known = np.isfinite(loss)
    return about | {
        "n_problems": losses.n, "n_tokens": int(n_tokens[known].sum()), "loss": losses.value,
        "loss_change": losses.change, "loss_ci_low": losses.ci_low, "loss_ci_high": losses.ci_high,
        "n_graded": rights.n, "accuracy": rights.value, "accuracy_change": rights.change,
        "accuracy_ci_low": rights.ci_low, "accuracy_ci_high": rights.ci_high,
        "reason": _reason(losses, rights),
    }  # fmt: skip


@dataclass(frozen=True)
class Changed:
    """A weighted mean over problems and its change; NaN where there is none."""

    n: int
    value: float = np.nan
    change: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan


def change_over_problems(
    values: Float[np.ndarray, " problem"], whole: Float[np.ndarray, " problem"], weight: Float[np.ndarray, " problem"]
) -> Changed:
    """Weighted means of values and of what they differ from the same problems' `whole`, which is drawn with them."""
    known = np.isfinite(values) & np.isfinite(whole)
    if not known.any():
        return Changed(0)
    change, weight = (values - whole)[known], weight[known]
    value = float(np.average(values[known], weights=weight))
    mean = float(np.average(change, weights=weight))
    n = int(known.sum())
    if n < 2:
        return Changed(n, value, mean)
    draws = np.concatenate([(counts @ (weight * change)) / (counts @ weight) for counts in drawn_counts(n)])
    low, high = np.quantile(draws, [0.025, 0.975])
    return Changed(n, value, mean, float(low), float(high))


def _reason(losses: Changed, rights: Changed) -> str | None:
    if not losses.n:
        return "loss: no reference"
    if not rights.n:
        return "accuracy: nothing was graded"
    return ONE_PROMPT if min(losses.n, rights.n) < 2 else None
