"""Which pairs of correct solutions are judged: those that stand for clusters, or all with different texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import polars as pl

from ...lake import Lake
from ...lake.derived import stored_analyses
from ...lake.errors import ConfigError, NotFoundError
from .template import Case

Pairs = Literal["representatives", "all"]


@dataclass(frozen=True)
class Solution:
    """One correct solution."""

    prompt_id: str
    sequence_id: int
    problem: str
    text: str
    method: str | None


def solutions(lake: Lake, run_id: str, pairs: Pairs) -> list[Solution]:
    """The solutions that are compared, by problem; errors say what must be done first."""
    rows = (
        lake.scan("sequences", run_id)
        .filter(pl.col("correct") & (pl.col("origin").is_null() | pl.col("origin").is_in(["sampled", "greedy"])))
        .select("prompt_id", "sequence_id", "prompt", "completion", "solution_method")
        .sort("prompt_id", "sequence_id")
        .collect()
    )
    if not rows.height:
        raise ConfigError(f"Run {run_id} has no sequence that is graded correct: there is no solution to judge.")
    found = [
        Solution(
            row["prompt_id"],
            row["sequence_id"],
            row["prompt"],
            (row["completion"] or "").strip(),
            row["solution_method"],
        )
        for row in rows.iter_rows(named=True)
    ]
    if pairs == "representatives":
        chosen = _representatives(lake, run_id)
        return [one for one in found if one.sequence_id in chosen]
    seen: set[tuple[str, str]] = set()  # equal texts need no judge
    return [one for one in found if (k := (one.prompt_id, one.text)) not in seen and not seen.add(k)]


def cases(chosen: list[Solution], orders: int) -> Iterator[Case]:
    """Every pair of solutions of a problem, in one order or in both."""
    by_prompt: dict[str, list[Solution]] = {}
    for one in chosen:
        by_prompt.setdefault(one.prompt_id, []).append(one)
    for prompt_id, own in by_prompt.items():
        for a, b in combinations(sorted(own, key=lambda one: one.sequence_id), 2):
            for order, (first, second) in enumerate(((a, b), (b, a))[:orders]):
                ids = (first.sequence_id, second.sequence_id)
                yield Case(prompt_id, first.problem or "", *ids, first.text, second.text, order)


def _representatives(lake: Lake, run_id: str) -> set[int]:
    """Sequences that stand for a cluster in the newest clustering within problems, by its first method."""
    [log] = lake.snapshot(run_id).runs.values()
    stored = [a for a in stored_analyses(log).values() if a.name == "clusters" and a.parameters["scope"] == "prompt"]
    if not stored:
        raise NotFoundError(
            f"Run {run_id} has no clusters: `lake analyze clusters {run_id}` makes them, or judge --pairs all."
        )
    method = str(stored[-1].parameters["method"]).split(",")[0]
    rows = (
        lake.scan("solution_clusters", run_id)
        .filter((pl.col("analysis_id") == stored[-1].analysis_id) & (pl.col("method") == method))
        .filter(pl.col("is_representative"))
        .select("sequence_id")
        .collect()
    )
    return set(rows["sequence_id"].to_list())
