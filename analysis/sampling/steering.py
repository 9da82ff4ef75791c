"""`steering_effects`: what adding a direction does to answers, against none and against random ones of equal length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import polars as pl
from jaxtyping import Float

from ...lake import Lake
from ...lake.errors import ConfigError, UsageError
from ...lake.reading.frames import scan_files
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from ...lake.values import Json, Row
from ..directions.stored import StoredDirection, stored_directions
from ..intervals import Mean, mean_over_prompts
from ..question import Evidence, Question, Reads, Rows
from ..row_columns import columns_of
from .pooled_question import own_answers

VERSION = 1
ACCURACY, SURPRISAL, LENGTH, SHARE = "accuracy", "mean_surprisal_bits", "answer_tokens", "share"
OTHER = "other"
"""The share of answers whose method is not recognised."""
Values = Mapping[str, Float[np.ndarray, " prompt"]]
"""Of each measure, the mean over a problem's answers; NaN where there is none."""


@dataclass(frozen=True)
class Condition:
    """One run: unsteered, or with one direction at one strength."""

    run_id: str
    direction: StoredDirection | None
    strength: float
    values: Values

    @property
    def is_control(self) -> bool:
        """Whether the direction is a random one."""
        return self.direction is not None and self.direction.control_of is not None


@dataclass(frozen=True)
class Steering(Question):
    """What adding a direction does to answers, beside random directions. RUNs: unsteered answers, then steered ones."""

    name: ClassVar[str] = "steering"
    n_runs: ClassVar[tuple[int, int | None]] = (2, None)

    def resolve(self, snapshot: Snapshot) -> Self:
        """Nothing is open."""
        return self

    def reads(self) -> Reads:
        """Sequences, and the surprisal of their tokens."""
        return [("sequences", {}), ("token_steps", {})]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """The runs, and the version of the numbers."""
        return {"runs": list(run_ids), "version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """A row per condition and measure."""
        frames = [own_answers(run.snapshot) for run in runs]
        prompts = sorted(set(frames[0]["prompt_id"].drop_nulls().to_list()))
        methods = sorted({m for frame in frames for m in frame["solution_method"].drop_nulls().to_list()})
        for run, frame in zip(runs, frames, strict=True):
            if set(frame["prompt_id"].drop_nulls().to_list()) != set(prompts):
                raise ConfigError(f"Runs {runs[0].run_id} and {run.run_id} are not of the same problems.")
        edits = [_edit(run) for run in runs]
        if edits[0] is not None:
            raise UsageError(f"Run {runs[0].run_id} is steered itself: name the unsteered run first.")
        if lacking := [run.run_id for run, edit in zip(runs[1:], edits[1:], strict=True) if edit is None]:
            raise ConfigError(f"Run {lacking[0]} is not steered: one --edit add:SITE@LAYER:direction=ID makes it so.")
        ids = list(dict.fromkeys(edit[0] for edit in edits if edit is not None))
        known = {one.direction_id: one for one in stored_directions(lake, ids=ids)}
        conditions = []
        for run, frame, edit in zip(runs, frames, edits, strict=True):
            values = measure(frame, _surprisal(run.snapshot), prompts, methods)
            direction, strength = (None, 0.0) if edit is None else (known[edit[0]], edit[1])
            conditions.append(Condition(run.run_id, direction, strength, values))
        rows = [row for one in conditions for row in _rows(one, conditions)]
        notices = [] if methods else ["No answer's method is recognised: there are no shares of methods."]
        if not any(one.is_control for one in conditions):
            notices.append("There is no random direction beside these: `lake analyze random-directions` makes some.")
        return Rows({"steering_effects": columns_of(rows)}, sum(frame.height for frame in frames), notices)


def measure(
    answers: pl.DataFrame, surprisal: Mapping[int, float], prompts: Sequence[str], methods: Sequence[str]
) -> dict[str, np.ndarray]:
    """Every measure of every problem: the mean over its answers that have a value."""
    own = answers["solution_method"].to_list()
    per_answer: dict[str, list[float]] = {
        ACCURACY: [np.nan if one is None else float(one) for one in answers["correct"].to_list()],
        SURPRISAL: [surprisal.get(one, np.nan) for one in answers["sequence_id"].to_list()],
        LENGTH: [float(one) for one in answers["n_answer"].to_list()],
    }
    if methods:
        per_answer |= {f"{SHARE}:{method}": [float(one == method) for one in own] for method in methods}
        per_answer[f"{SHARE}:{OTHER}"] = [float(one is None) for one in own]
    place = {prompt: n for n, prompt in enumerate(prompts)}
    rows = np.array([place[prompt] for prompt in answers["prompt_id"].to_list()], np.int64)
    found = {}
    for name, values in per_answer.items():
        array = np.array(values, np.float64)
        known = np.isfinite(array)
        count = np.bincount(rows[known], minlength=len(prompts))
        total = np.bincount(rows[known], array[known], minlength=len(prompts))
        found[name] = np.divide(total, count, out=np.full(len(prompts), np.nan), where=count > 0)
    return found


def _surprisal(snapshot: Snapshot) -> dict[int, float]:
    """Mean surprisal of each answer's tokens by the (steered) model's own raw distribution."""
    rows = (
        scan_files(TABLES["token_steps"], snapshot)
        .filter((pl.col("step") >= 0) & ~pl.col("is_forced").fill_null(False))
        .group_by("sequence_id")
        .agg(pl.col("surprisal_bits").cast(pl.Float64).mean())
        .collect()
    )
    return {one: value for one, value in rows.iter_rows() if value is not None}


def _edit(run: Evidence) -> tuple[str, float] | None:
    """Direction and strength of a run's one edit; None for a run without any, ConfigError for other edits."""
    edits = run.snapshot.runs[run.run_id].run_json.get("edits") or []
    if not edits:
        return None
    [edit, *more] = edits
    if more or edit.get("change") != "add" or not edit.get("direction"):
        raise ConfigError(f"Run {run.run_id} has other edits than one direction that is added: it shows no steering.")
    return str(edit["direction"]), float(edit["strength"])


def _rows(one: Condition, conditions: Sequence[Condition]) -> Iterator[Row]:
    base = conditions[0]
    direction = one.direction
    controls = [
        other for other in conditions
        if direction is not None and other.direction is not None and other.strength == one.strength
        and other.direction.control_of == direction.direction_id
    ]  # fmt: skip
    for name, values in one.values.items():
        value = mean_over_prompts(values)
        row: Row = {
            "condition": one.run_id, "direction": direction and direction.direction_id,
            "method": direction and direction.method, "control_of": direction and direction.control_of,
            "site": direction and direction.site, "layer": direction and direction.layer,
            "strength": one.strength, "measure": name, **_interval("", value), "n_prompts": value.n_prompts,
            "reason": value.reason,
        }  # fmt: skip
        if direction is not None:
            row |= _interval("change", mean_over_prompts(values - base.values[name]))
        if controls:
            mean = np.mean([other.values[name] for other in controls], axis=0)
            row |= _interval("beyond_random", mean_over_prompts(values - mean)) | {"n_controls": len(controls)}
        yield row


def _interval(name: str, found: Mean) -> dict[str, float]:
    prefix = f"{name}_" if name else ""
    return {name or "value": found.mean, f"{prefix}ci_low": found.ci_low, f"{prefix}ci_high": found.ci_high}
