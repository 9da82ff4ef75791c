"""`oracle_distances`: how far answers are from an oracle solution, free and after being forced to begin with it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.errors import NotFoundError
from ...lake.reading.frames import scan_files
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from ...lake.values import Json, Row
from ..paths.states import answers, chosen_layers
from ..question import Evidence, Reads, Rows
from ..row_columns import columns_of
from .distances import distance
from .pooled_question import OWN, PooledQuestion
from .pooling import Pooling, pool

VERSION = 1
WHOLE, REST = "whole", "rest"


@dataclass(frozen=True)
class OracleDistances(PooledQuestion):
    """How far answers are from an oracle solution, free and forced to begin with it. RUNs: answers, then oracles."""

    name: ClassVar[str] = "oracle"
    n_runs: ClassVar[tuple[int, int | None]] = (1, None)

    def _answers(self, snapshot: Snapshot) -> pl.DataFrame:
        return answers(snapshot)

    def reads(self) -> Reads:
        """Sequences, which of their tokens were forced, and states."""
        return [("sequences", {}), ("token_steps", {}), *self.states_read()]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """The runs, all options, and the version of the numbers."""
        return dict(vars(self)) | {"runs": list(run_ids), "version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """A row per answer, scope, oracle and layer."""
        for run in runs:
            chosen_layers(run.snapshot, self.site, self.layer)  # every run must have them
        parts = [_read(run) for run in runs]
        oracles = [one for part in parts for one in part if one.origin == "oracle"]
        known = {one.prompt_id for one in oracles}
        given = [one for part in parts for one in part if one.origin != "oracle"]
        own = [one for one in given if one.prompt_id in known]
        if not own:
            raise NotFoundError(
                f"No answer of {', '.join(run.run_id for run in runs)} has an oracle: none of their sequences with the "
                "same prompt has origin `oracle`. `lake collect --given FILE --max-new-tokens 0` reads oracle "
                'solutions from JSONL lines {"id": ..., "given": ..., "origin": "oracle"}; then name that run too.'
            )
        pairs = list(_pairs(own, oracles))
        rows: list[Row] = []
        for layer in self.layers:
            rows += self._of_layer(layer, runs, pairs)
        lost = len(given) - len(own)
        notices = [f"{lost:,} answers have no oracle and are left out."] if lost else []
        return Rows({"oracle_distances": columns_of(rows)}, len(own), notices)

    def _of_layer(self, layer: int, runs: Sequence[Evidence], pairs: "Sequence[_Pair]") -> list[Row]:
        wanted = {(side, pair.first) for pair in pairs for side in (pair.answer, pair.oracle)}
        states = _pool_all(runs, self.site, layer, self.pooling(), wanted)
        rows, free = [], {}
        for pair in pairs:
            mine, theirs = states[pair.answer, pair.first], states[pair.oracle, pair.first]
            why = (mine[2] and f"answer: {mine[2]}") or (theirs[2] and f"oracle: {theirs[2]}")
            found = distance(mine[0], theirs[0], why)
            rows.append(
                {
                    "sequence_id": pair.answer.sequence_id, "answer_run_id": pair.answer.run_id,
                    "prompt_id": pair.answer.prompt_id, "oracle_run_id": pair.oracle.run_id,
                    "oracle_sequence_id": pair.oracle.sequence_id, "share": pair.share, "n_prefix": pair.n_prefix,
                    "scope": pair.scope, "condition": "forced" if pair.answer.n_forced else "free",
                    "site": self.site, "layer": layer, "n_tokens": mine[1], "n_oracle_tokens": theirs[1],
                    **asdict(found), "retokenised": pair.oracle.retokenised,
                }
            )  # fmt: skip
            if not pair.answer.n_forced and np.isfinite(found.distance):
                free.setdefault((pair.oracle, pair.scope, pair.first), []).append(found.distance)
        for row, pair in zip(rows, pairs, strict=True):
            before = free.get((pair.oracle, pair.scope, pair.first))
            if pair.answer.n_forced and before:
                row["improvement"] = float(np.mean(before)) - row["distance"]
        return rows


@dataclass(frozen=True)
class _Answer:
    """One sequence of one of the runs."""

    run_id: str
    row: int
    """Among the run's sequences."""
    sequence_id: int
    prompt_id: str
    origin: str
    n_answer: int
    n_forced: int
    retokenised: bool | None


@dataclass(frozen=True)
class _Pair:
    """An answer and an oracle, both from step `first` on."""

    answer: _Answer
    oracle: _Answer
    scope: str
    n_prefix: int

    @property
    def first(self) -> int:
        """Step from which both sides count."""
        return self.n_prefix if self.scope == REST else 0

    @property
    def share(self) -> float:
        """The part of the oracle that was forced."""
        return self.answer.n_forced / self.oracle.n_answer if self.oracle.n_answer else 0.0


def _pairs(own: Sequence[_Answer], oracles: Sequence[_Answer]) -> Iterator[_Pair]:
    """Each answer with each oracle of its problem; free answers also from where each forced one is free."""
    by_prompt: dict[str, list[_Answer]] = {}
    for one in oracles:
        by_prompt.setdefault(one.prompt_id, []).append(one)
    prefixes: dict[str, set[int]] = {}
    for one in own:
        prefixes.setdefault(one.prompt_id, set()).update({one.n_forced} - {0})
    for one in own:
        for oracle in by_prompt[one.prompt_id]:
            yield _Pair(one, oracle, WHOLE, one.n_forced)
            lengths = [one.n_forced] if one.n_forced else sorted(prefixes[one.prompt_id])
            for n_prefix in lengths:
                yield _Pair(one, oracle, REST, n_prefix)


def _read(run: Evidence) -> list[_Answer]:
    """Answers and oracles of a run; reads of other kinds are neither."""
    sequences = answers(run.snapshot)
    forced = (
        scan_files(TABLES["token_steps"], run.snapshot)
        .filter((pl.col("step") >= 0) & pl.col("is_forced"))
        .group_by("sequence_id")
        .agg(pl.len().alias("n_forced"))
        .collect()
    )
    joined = sequences.join(forced, on="sequence_id", how="left", maintain_order="left")
    found = []
    for number, row in enumerate(joined.iter_rows(named=True)):
        origin = row["origin"] or "sampled"
        if origin not in (*OWN, "oracle", "forced"):
            continue
        about = json.loads(row["metadata"]) if row["metadata"] else {}
        found.append(
            _Answer(
                run.run_id, number, row["sequence_id"], row["prompt_id"] or "", origin, row["n_answer"],
                0 if origin == "oracle" else row["n_forced"] or 0, about.get("retokenised"),
            )
        )  # fmt: skip
    return found


def _pool_all(
    runs: Sequence[Evidence], site: str, layer: int, pooling: Pooling, wanted: set[tuple[_Answer, int]]
) -> dict[tuple[_Answer, int], tuple[np.ndarray, int, str | None]]:
    """The pooled state of each answer from each step asked for: as many readings as one answer has such steps."""
    found: dict[tuple[_Answer, int], tuple[np.ndarray, int, str | None]] = {}
    for run in runs:
        sequences = answers(run.snapshot)
        firsts: dict[_Answer, list[int]] = {}
        for one, first in sorted(wanted, key=lambda pair: (pair[0].row, pair[1])):
            if one.run_id == run.run_id:
                firsts.setdefault(one, []).append(first)
        for turn in range(max(map(len, firsts.values()), default=0)):
            asked = [(one, steps[turn]) for one, steps in firsts.items() if turn < len(steps)]
            rows = [one.row for one, _ in asked]
            first = np.array([step for _, step in asked], np.int64)
            [pooled] = pool(run.snapshot, site, layer, sequences[rows], [pooling], first)
            for place, key in enumerate(asked):
                found[key] = (pooled.states[place], int(pooled.n_tokens[place]), pooled.reason[place])
    return found
