"""`path_sensitivity`: how far one other token at one step moves the rest of a greedy answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from ...lake import Lake
from ...lake.errors import ConfigError, NotFoundError, UsageError
from ...lake.reading.frames import scan_files
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from ...lake.values import Json, Row
from ..option import option
from ..paths.states import States, answers, chosen_layers, read_states
from ..question import Evidence, Question, Reads, Rows
from ..row_columns import columns_of

VERSION = 1
CUT = ("length", "context")
"""Reasons of ends that are none: the model had more to say."""


@dataclass(frozen=True)
class Sensitivity(Question):
    """How far one forced token moves the rest of a greedy answer. RUNs: the baselines, then their branches."""

    name: ClassVar[str] = "sensitivity"
    n_runs: ClassVar[tuple[int, int | None]] = (2, None)
    site: str = option("resid_post", "Site of the states.")
    layer: str = option("all", "Layers: all that are stored, or e.g. 0,6,-1 or 8-11.", metavar="LAYERS")
    lookahead: int | None = option(
        None, "Tokens of the window, the forced one included; as many as the longest branch wrote, if not given."
    )

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError for a window without a free token."""
        super().check(run_ids)
        if self.lookahead is not None and self.lookahead < 2:
            raise UsageError(f"--lookahead must be 2 or more (the forced token and one after), not {self.lookahead}.")

    def resolve(self, snapshot: Snapshot) -> Self:
        """The layers by number."""
        return replace(self, layer=",".join(map(str, chosen_layers(snapshot, self.site, self.layer))))

    def reads(self) -> Reads:
        """Sequences, tokens and states of baselines and branches."""
        states = [("activations", {"site": self.site, "layer": int(layer)}) for layer in self.layer.split(",")]
        return [("sequences", {}), ("token_steps", {}), *states]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """The runs, all options, and the version of the numbers."""
        return dict(vars(self)) | {"runs": list(run_ids), "version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """A row per branch and layer."""
        base = answers(runs[0].snapshot)
        baselines = Side(runs[0].run_id, runs[0].snapshot, base, _tokens(runs[0].snapshot))
        sides = []
        for run in runs[1:]:
            chosen_layers(run.snapshot, self.site, self.layer)
            mine = pl.col("parent_run_id") == runs[0].run_id
            sequences = answers(run.snapshot).filter(mine & pl.col("branch_position").is_not_null())
            if not sequences.height:
                raise NotFoundError(
                    f"Run {run.run_id} has no branches of run {runs[0].run_id}. "
                    f"`lake collect --branch-from {runs[0].run_id} --at every:8 --force second` makes them."
                )
            sides.append(Side(run.run_id, run.snapshot, sequences, _tokens(run.snapshot)))
        window = self.lookahead or max(_longest(side) for side in sides)
        rows, n_same = [], 0
        for side in sides:
            branches = _branches(baselines, side)
            differing = [b for b in branches if b.token_id != b.alternative_id]
            n_same += len(branches) - len(differing)
            for layer in map(int, self.layer.split(",")):
                rows += _of_layer(self.site, layer, baselines, side, differing, window)
        if not rows:
            raise ConfigError("Every branch has its parent's own token: force another (--force second).")
        complete = sum(row["complete"] for row in rows)
        notices = [f"{complete:,} of {len(rows):,} windows of {window} tokens are complete: only these are compared."]
        if n_same:
            notices.append(f"{n_same:,} branches have their parent's own token and are left out.")
        return Rows({"path_sensitivity": columns_of(rows)}, sum(s.sequences.height for s in sides), notices)


@dataclass(frozen=True)
class Side:
    """The sequences of a run that count, and their tokens."""

    run_id: str
    snapshot: Snapshot
    sequences: pl.DataFrame
    tokens: dict[int, pl.DataFrame]


@dataclass(frozen=True, eq=False)
class Branch:
    """One branch: rows of both sequences, where they part, and what the rows say."""

    place: int
    parent: int
    step: int
    token_id: int
    alternative_id: int
    rank: int | None
    margin: float
    equal: Bool[np.ndarray, " later_step"]
    """Whether both have the same token at each step after the forced one."""
    n_answer: int
    n_parent: int


def _tokens(snapshot: Snapshot) -> dict[int, pl.DataFrame]:
    """Generated tokens by sequence, in order."""
    frame = (
        scan_files(TABLES["token_steps"], snapshot)
        .filter(pl.col("step") >= 0)
        .select("sequence_id", "step", "token_id", "logprob", "topk_ids", "topk_logprobs")
        .sort("sequence_id", "step")
        .collect()
    )
    return {int(key[0]): part for key, part in frame.partition_by("sequence_id", as_dict=True).items()}


def _longest(side: Side) -> int:
    """Tokens of the longest branch, from the forced one on."""
    step = (side.sequences["branch_position"] - side.sequences["n_prompt_tokens"]).to_numpy()
    return int((side.sequences["n_generated_tokens"].to_numpy() - step).max(initial=2))


def _branches(baselines: Side, side: Side) -> list[Branch]:
    parents = {one: place for place, one in enumerate(baselines.sequences["sequence_id"].to_list())}
    n_parents = baselines.sequences["n_answer"].to_list()
    found = []
    for place, row in enumerate(side.sequences.iter_rows(named=True)):
        parent = parents.get(row["parent_sequence_id"])
        step = row["branch_position"] - row["n_prompt_tokens"]
        if parent is None:
            raise NotFoundError(
                f"Branch {row['sequence_id']} of run {side.run_id} is of sequence {row['parent_sequence_id']}, which "
                f"run {baselines.run_id} does not have."
            )
        mine, theirs = side.tokens[row["sequence_id"]], baselines.tokens[row["parent_sequence_id"]]
        if step >= theirs.height or step >= mine.height:
            raise ConfigError(
                f"Branch {row['sequence_id']} of run {side.run_id} parts at step {step}; its parent, sequence "
                f"{row['parent_sequence_id']} of run {baselines.run_id}, has steps 0 to {theirs.height - 1}."
            )
        alternative = int(mine["token_id"][step])
        rank, margin = _choice(theirs.row(step, named=True), alternative)
        ends = (row["n_answer"], n_parents[parent])
        n = max(0, min(ends) - step - 1)
        equal = (mine["token_id"][step + 1 : step + 1 + n] == theirs["token_id"][step + 1 : step + 1 + n]).to_numpy()
        found.append(
            Branch(place, parent, step, int(theirs["token_id"][step]), alternative, rank, margin, equal, *ends)
        )
    return found


def _choice(chosen: Row, alternative: int) -> tuple[int | None, float]:
    """Rank of the alternative among the stored best tokens, and how much less probable it was."""
    ids = chosen["topk_ids"] or []
    if alternative not in ids or chosen["logprob"] is None:
        return None, np.nan
    rank = ids.index(alternative)
    return rank, float(chosen["logprob"]) - float(chosen["topk_logprobs"][rank])


@dataclass(frozen=True)
class Means:
    """Means over the window of each branch, without and with the forced step; NaN where nothing is in it."""

    free: Float[np.ndarray, "branch dim"]
    whole: Float[np.ndarray, "branch dim"]
    n_free: Int[np.ndarray, " branch"]
    """Tokens in the first mean; the second has one more."""


def window_means(
    states: Sequence[States],
    place: Int[np.ndarray, " branch"],
    step: Int[np.ndarray, " branch"],
    n_answer: Int[np.ndarray, " branch"],
    window: int,
) -> Means:
    """Means over steps `step` (or the one after) to step + window - 1 of the sequences at `place`.

    Steps from `n_answer` on do not count. A window of which a state is missing has NaN.
    """
    dim = states[0].vectors.shape[1] if states else 0
    free, whole = (np.full((len(place), dim), np.nan) for _ in range(2))
    stop = np.minimum(n_answer, step + window)
    n_free = np.maximum(stop - step - 1, 0)
    for some in states:
        for branch in np.flatnonzero((place >= some.place[0]) & (place <= some.place[-1])):
            low, high = np.searchsorted(some.place, [place[branch], place[branch] + 1])
            steps = some.step[low:high]
            first, last = np.searchsorted(steps, [step[branch], stop[branch]]) + low
            if last - first != n_free[branch] + 1 or last <= first:
                continue  # not every state of the window is stored
            part = some.vectors[first:last].astype(np.float64)
            whole[branch] = part.mean(axis=0)
            if n_free[branch]:
                free[branch] = part[1:].mean(axis=0)
    return Means(free, whole, n_free)


def _of_layer(site: str, layer: int, baselines: Side, side: Side, branches: Sequence[Branch], window: int) -> list[Row]:
    step = np.array([one.step for one in branches], np.int64)
    means = [
        window_means(list(read_states(of.snapshot, site, layer, of.sequences)), place, step, lengths, window)
        for of, place, lengths in (
            (baselines, np.array([b.parent for b in branches], np.int64), np.array([b.n_parent for b in branches])),
            (side, np.array([b.place for b in branches], np.int64), np.array([b.n_answer for b in branches])),
        )
    ]
    free = np.linalg.norm(means[0].free - means[1].free, axis=1)
    whole = np.linalg.norm(means[0].whole - means[1].whole, axis=1)
    rows = []
    for number, one in enumerate(branches):
        parent = baselines.sequences.row(one.parent, named=True)
        branch = side.sequences.row(one.place, named=True)
        counts = [int(side_means.n_free[number]) for side_means in means]
        # Of a text that was cut, the last number is no answer.
        cut = [name for name, row in (("baseline", parent), ("branch", branch)) if row["finish_reason"] in CUT]
        said = [None if row["finish_reason"] in CUT else row["predicted_answer"] for row in (parent, branch)]
        rows.append(
            {
                "sequence_id": parent["sequence_id"], "step": one.step,
                "position": parent["n_prompt_tokens"] + one.step,
                "branch_run_id": side.run_id, "branch_sequence_id": branch["sequence_id"], "token_id": one.token_id,
                "alternative_id": one.alternative_id, "alternative_rank": one.rank, "margin": one.margin,
                "site": site, "layer": layer, "lookahead": window, "divergence": float(free[number]),
                "divergence_with_forced": float(whole[number]), "n_baseline": counts[0], "n_branch": counts[1],
                "complete": counts == [window - 1, window - 1] and bool(np.isfinite(free[number])),
                "n_equal_tokens": int(one.equal[: window - 1].sum()), "baseline_answer": said[0],
                "branch_answer": said[1], "answer_changed": None if cut else said[0] != said[1],
                "branch_correct": None if "branch" in cut else branch["correct"],
                "reason": _reason(one, counts, float(free[number]), cut),
            }
        )  # fmt: skip
    return rows


def _reason(one: Branch, counts: Sequence[int], divergence: float, cut: Sequence[str]) -> str | None:
    why = [] if one.rank is not None else ["margin: the alternative is not among the stored best tokens"]
    if 0 in counts:
        why.append("divergence: nothing follows the forced step")
    elif np.isnan(divergence):
        why.append("divergence: not all states of the window are stored")
    if cut:
        why.append(f"answer_changed: the {' and the '.join(cut)} ended before an answer (by length)")
    return "; ".join(why) or None
