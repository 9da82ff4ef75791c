"""`pass_rates`: the chance that one of k samples is right, by what was done to the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.errors import ConfigError, UsageError
from ...lake.snapshot import Snapshot
from ...lake.values import Json, Row
from ..intervals import mean_over_prompts
from ..option import option
from ..question import Evidence, Question, Reads, Rows
from ..row_columns import columns_of
from .pooled_question import own_answers

VERSION = 1


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the chance that one of k of n samples is among the c right ones; NaN if k > n."""
    if k > n:
        return math.nan
    return 1 - math.comb(n - c, k) / math.comb(n, k)


@dataclass(frozen=True)
class PassRates(Question):
    """The chance that one of k samples is right (pass@k), of one run or several beside each other."""

    name: ClassVar[str] = "pass-rates"
    n_runs: ClassVar[tuple[int, int | None]] = (1, None)
    ks: tuple[int, ...] | None = option(None, "Samples of which one must be right; may repeat. 1 if none.", flag="--k")

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError for fewer than one sample."""
        super().check(run_ids)
        if low := [k for k in self.ks or () if k < 1]:
            raise UsageError(f"--k must be 1 or more, not {low[0]}.")

    def resolve(self, snapshot: Snapshot) -> Self:
        """Nothing is open."""
        return self

    def reads(self) -> Reads:
        """Sequences."""
        return [("sequences", {})]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """The runs and k."""
        return {"runs": list(run_ids), "ks": sorted(set(self.ks or (1,))), "version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """A row per run and k."""
        rows: list[Row] = []
        n_sequences = 0
        for run in runs:
            graded = own_answers(run.snapshot).filter(pl.col("correct").is_not_null())
            if not graded.height:
                raise ConfigError(f"No sequence of run {run.run_id} is graded: collect prompts with an `answer`.")
            n_sequences += graded.height
            counts = graded.group_by("prompt_id", maintain_order=True).agg(pl.len(), pl.col("correct").sum())
            pairs = list(counts.select("len", "correct").iter_rows())
            for k in sorted(set(self.ks or (1,))):
                found = mean_over_prompts(np.array([pass_at_k(n, c, k) for n, c in pairs]))
                few = sum(n < k for n, _ in pairs)
                why = [found.reason] if found.reason else []
                why += [f"{few} prompts have fewer than {k} samples and are left out"] if few else []
                rows.append(
                    {
                        **_condition(run), "k": k, "n_samples": sum(n for n, _ in pairs),
                        "n_correct": sum(c for _, c in pairs), "n_prompts": found.n_prompts, "pass_at_k": found.mean,
                        "ci_low": found.ci_low, "ci_high": found.ci_high, "reason": "; ".join(why) or None,
                    }
                )  # fmt: skip
        return Rows({"pass_rates": columns_of(rows)}, n_sequences)


def _condition(run: Evidence) -> Row:
    """The run and, where its run.json says that states were edited, by which direction, where and how much."""
    edits = run.snapshot.runs[run.run_id].run_json.get("edits") or []
    if len(edits) != 1:
        return {"condition": run.run_id, "direction": None, "layer": None, "strength": None}
    edit = edits[0]
    strength = edit.get("strength")
    return {
        "condition": run.run_id, "direction": edit.get("direction"), "layer": edit.get("layer"),
        "strength": None if strength is None else float(strength),
    }  # fmt: skip
