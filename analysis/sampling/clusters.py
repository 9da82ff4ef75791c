"""`solution_clusters` and `cluster_summaries`: do the correct solutions of a problem fall into kinds?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.errors import ConfigError, UsageError, did_you_mean
from ...lake.reading.frames import scan_files
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from ...lake.values import Json, Row
from ..intervals import mean_over_prompts
from ..option import option
from ..question import Evidence, Reads, Rows
from ..row_columns import columns_of
from . import clustering
from .clustering import METHODS, Clusters, agreement, cluster, principal_plane
from .pooled_question import PooledQuestion, own_answers
from .pooling import pool

VERSION = 1


@dataclass(frozen=True)
class SolutionClusters(PooledQuestion):
    """Clusters of the correct solutions of each problem, and how they agree with known methods and a judge."""

    name: ClassVar[str] = "clusters"
    layer: str = option("-1", "The layer whose pooled states are clustered.", metavar="LAYER")
    checkpoint: int | None = option(None, "Only answer tokens before this step.")
    method: str = option(",".join(METHODS), "How to cluster; several separated by commas.")
    k: int | None = option(None, "Clusters per problem; the best silhouette if not given.", flag="--k")
    scope: Literal["prompt", "all"] = option(
        "prompt", "Cluster within each problem, or all solutions after each problem's mean is taken off."
    )

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError for unknown methods and numbers that cannot be."""
        super().check(run_ids)
        if self.k is not None and self.k < 1:
            raise UsageError(f"--k must be 1 or more, not {self.k}.")
        for one in self.methods:
            if one not in METHODS:
                raise UsageError(f"There is no --method {one!r}.{did_you_mean(one, METHODS)}")

    @property
    def methods(self) -> list[str]:
        """The methods, each once."""
        return list(dict.fromkeys(part.strip() for part in self.method.split(",")))

    def resolve(self, snapshot: Snapshot) -> Self:
        """The layer by number, and the stride."""
        resolved = replace(super().resolve(snapshot), method=",".join(self.methods))
        if len(resolved.layers) != 1:
            stored = ", ".join(map(str, resolved.layers))
            raise UsageError(f"--layer {self.layer}: clusters are of one layer. Stored: {stored}.")
        return resolved

    def _checkpoints(self) -> Sequence[int]:
        return () if self.checkpoint is None else (self.checkpoint,)

    def reads(self) -> Reads:
        """Sequences, states, and a judge's verdicts."""
        return [("sequences", {}), ("judgements", {}), *self.states_read()]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """All options, and the version of the numbers."""
        return dict(vars(self)) | {"version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """A row per solution, and one per problem and clustering."""
        snapshot, run_id = runs[0].snapshot, runs[0].run_id
        correct = own_answers(snapshot).filter(pl.col("correct"))
        if not correct.height:
            raise ConfigError(f"Run {run_id} has no sequence that is graded correct: there is no solution to cluster.")
        [pooled] = pool(snapshot, self.site, int(self.layer), correct, [self.pooling(self.checkpoint)])
        usable = np.asarray(np.isfinite(pooled.states).all(axis=1))
        problems, repeats = _problems(correct, usable)
        verdicts = read_verdicts(snapshot)
        rows, summaries = [], []
        for method in self.methods:
            about = {"method": method, "site": self.site, "layer": int(self.layer), "scope": self.scope}
            seen = _Seen(correct, pooled.states, problems, verdicts, about, self.k)
            more, summary = seen.per_prompt() if self.scope == "prompt" else seen.together()
            rows += [*more, *(about | one for one in repeats)]
            summaries += summary
        tables = {"solution_clusters": columns_of(rows), "cluster_summaries": columns_of(summaries)}
        few = sum(len(p.rows) < least(self.k) for p in problems)
        notices = [f"{few:,} of {len(problems):,} problems have too few different solutions."] if few else []
        if n_unusable := int((~usable).sum()):
            notices.append(f"{n_unusable:,} correct solutions have no pooled state (too short, or not stored).")
        return Rows(tables, correct.height, notices)


def least(k: int | None) -> int:
    """How many different solutions a clustering needs: as many as clusters; three where their number is looked for."""
    return 3 if k is None else k


@dataclass(frozen=True)
class _Problem:
    """A problem's correct solutions: rows of those with a text of their own."""

    prompt_id: str
    rows: np.ndarray
    n_correct: int


def _problems(correct: pl.DataFrame, usable: np.ndarray) -> tuple[list[_Problem], list[Row]]:
    """The problems, and a row for each solution that is not clustered: a repeated text, or no state."""
    problems, others = [], []
    for (prompt,), own in correct.with_row_index("row").group_by("prompt_id", maintain_order=True):
        first: dict[str, int] = {}
        kept = []
        for row, sequence, text in own.select("row", "sequence_id", "completion").iter_rows():
            key = (text or "").strip()
            if not usable[row]:
                others.append({"sequence_id": sequence, "prompt_id": prompt, "reason": "no pooled state"})
            elif key in first:
                about = {"same_text_as": first[key], "reason": "the same text as another solution"}
                others.append({"sequence_id": sequence, "prompt_id": prompt, **about})
            else:
                first[key] = sequence
                kept.append(row)
        problems.append(_Problem(str(prompt), np.array(kept, np.int64), own.height))
    return problems, others


@dataclass(frozen=True)
class Verdict:
    """What a judge says of two solutions, both orders together; null where they disagree or one failed."""

    distinct: bool | None


def read_verdicts(snapshot: Snapshot) -> Mapping[tuple[int, int], Verdict]:
    """The newest judge's verdict on each pair, by sorted sequence ids."""
    rows = scan_files(TABLES["judgements"], snapshot).collect()
    if not rows.height:
        return {}
    [log] = snapshot.runs.values()
    newest = [r.analysis["analysis_id"] for r in log.derived if r.analysis["name"] == "judge"][-1:]
    found: dict[tuple[int, int], list[bool | None]] = {}
    for a, b, distinct in (
        rows.filter(pl.col("analysis_id").is_in(newest)).select("sequence_a", "sequence_b", "distinct").iter_rows()
    ):
        found.setdefault((min(a, b), max(a, b)), []).append(distinct)
    return {pair: Verdict(said[0] if len(set(said)) == 1 else None) for pair, said in found.items()}


@dataclass(frozen=True)
class _Seen:
    """Everything that one method of clustering looks at."""

    correct: pl.DataFrame
    states: np.ndarray
    problems: list[_Problem]
    verdicts: Mapping[tuple[int, int], Verdict]
    about: Json
    k: int | None

    def per_prompt(self) -> tuple[list[Row], list[Row]]:
        """Cluster each problem alone; the last summary is over problems."""
        rows, summaries = [], []
        for problem in self.problems:
            counts = {"n_correct": problem.n_correct, "n_distinct_texts": len(problem.rows)}
            base = {"prompt_id": problem.prompt_id, **self.about, **counts}
            if len(problem.rows) < least(self.k):
                why = clustering.FEW if self.k is None else f"fewer different solutions than k = {self.k}"
                summaries.append(base | {"reason": why})
                ids = self.correct["sequence_id"].gather(problem.rows).to_list()
                left = {"prompt_id": problem.prompt_id, **self.about, "reason": why}
                rows += [{"sequence_id": one, **left} for one in ids]
                continue
            found = cluster(self.states[problem.rows], self.about["method"], self.k)
            rows += self._rows(problem.rows, found)
            summaries.append(base | self._summary(problem.rows, found))
        return rows, [*summaries, self._over_prompts(summaries)]

    def together(self) -> tuple[list[Row], list[Row]]:
        """Cluster all solutions after each problem's mean is taken off."""
        kept = [problem for problem in self.problems if len(problem.rows) > 1]
        chosen = np.concatenate([problem.rows for problem in kept]) if kept else np.empty(0, np.int64)
        centred = self.states.copy()
        for problem in kept:
            centred[problem.rows] -= centred[problem.rows].mean(axis=0)
        counts = {
            "n_correct": sum(p.n_correct for p in self.problems), "n_distinct_texts": len(chosen),
            "n_prompts": len(kept),
        }  # fmt: skip
        base = {"prompt_id": None, **self.about, **counts}
        if len(chosen) < least(self.k):
            return [], [base | {"reason": clustering.FEW}]
        found = cluster(centred[chosen], self.about["method"], self.k)
        return self._rows(chosen, found, centred), [base | self._summary(chosen, found)]

    def _rows(self, rows: np.ndarray, found: Clusters, states: np.ndarray | None = None) -> list[Row]:
        plane = principal_plane((self.states if states is None else states)[rows])
        ids = self.correct["sequence_id"].to_list()
        prompts = self.correct["prompt_id"].to_list()
        best = set(found.representative.tolist())
        return [
            {
                "sequence_id": ids[row], "prompt_id": prompts[row], **self.about, "k": found.k,
                "cluster": int(found.cluster[n]) if found.cluster[n] >= 0 else None, "is_representative": n in best,
                "centroid_distance": float(found.centroid_distance[n]), "pc_x": float(plane[n, 0]),
                "pc_y": float(plane[n, 1]), "reason": None if found.cluster[n] >= 0 else "noise",
            }
            for n, row in enumerate(rows.tolist())
        ]  # fmt: skip

    def _summary(self, rows: np.ndarray, found: Clusters) -> Row:
        why = [] if found.k > 1 else ["one cluster: no silhouette, no pairs"]
        methods = self.correct["solution_method"].gather(rows).to_list()
        ari = np.nan
        if any(one is None for one in methods):
            why.append("ari_method: not every solution's method is known")
        else:
            ari = agreement(methods, found.cluster.tolist())
        ids = self.correct["sequence_id"].gather(rows).to_list()
        pairs = [tuple(sorted((ids[a], ids[b]))) for a, b in combinations(found.representative.tolist(), 2)]
        said = [self.verdicts[pair].distinct for pair in pairs if pair in self.verdicts]
        known = [one for one in said if one is not None]
        if pairs and not known:
            why.append("distinctness: no verdict on a pair of representatives (`lake analyze judge`)")
        judged, lacking = self._judged(ids, found)
        return {
            "k": found.k, "silhouette": found.silhouette, "ari_method": ari, "ari_judge": judged,
            "distinctness": sum(known) / len(known) if known else np.nan,
            "n_pairs": len(pairs), "n_verdicts": len(known), "reason": "; ".join([*why, *lacking]) or None,
        }  # fmt: skip

    def _judged(self, ids: list[int], found: Clusters) -> tuple[float, list[str]]:
        """Agreement with the groups that `not distinct` joins, where the judge was asked about every pair."""
        if not self.verdicts:
            return np.nan, []
        group = {one: one for one in ids}
        for a, b in combinations(ids, 2):
            verdict = self.verdicts.get((min(a, b), max(a, b)))
            if verdict is None or verdict.distinct is None:
                return np.nan, ["ari_judge: not every pair of solutions has a verdict"]
            if not verdict.distinct:
                old, new = group[b], group[a]
                group = {one: new if of == old else of for one, of in group.items()}
        return agreement([group[one] for one in ids], found.cluster.tolist()), []

    def _over_prompts(self, rows: list[Row]) -> Row:
        def mean(name: str) -> Any:
            return mean_over_prompts(np.array([row.get(name, np.nan) for row in rows]))

        ari = mean("ari_method")
        counts = ("n_correct", "n_distinct_texts", "n_pairs", "n_verdicts")
        return {
            "prompt_id": None, **self.about, **{name: sum(row.get(name, 0) for row in rows) for name in counts},
            **{name: mean(name).mean for name in ("silhouette", "ari_method", "ari_judge", "distinctness")},
            **{name: value for name, value in asdict(ari).items() if name in ("n_prompts", "ci_low", "ci_high")},
            "reason": ari.reason and f"ari_method: {ari.reason}",
        }  # fmt: skip
