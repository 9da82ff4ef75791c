"""The rows of one layer, group by group: directions, scores of held-out fits and their controls, projections."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Bool, Float

from ...lake.snapshot import Snapshot
from ...lake.values import Columns, Json, Row
from ..paths.states import read_states
from ..row_columns import columns_of
from .baselines import Baseline
from .estimators import Fit, fit, unit_length
from .held_out import FOLDS, Told, folds, tell, tell_majority, tell_shuffled
from .identity import direction_id
from .quality import Quality, control, quality

NO_FIT = "held_out: the other folds lack a class"


@dataclass(frozen=True)
class Place:
    """Where states are taken, how, and what is told apart in them."""

    site: str
    layer: int
    at: str
    unit: bool
    label: str


@dataclass(frozen=True)
class Group:
    """Sequences that are looked at alone: all of them, or those of one value."""

    within: str | None
    member: Bool[np.ndarray, " sequence"]


@dataclass(frozen=True)
class Fitted:
    """A direction fitted on all sequences, and the fits of the folds."""

    direction_id: str
    whole: Fit
    folds: tuple[Fit | None, ...]


@dataclass
class LayerRows:
    """What has been computed so far, as rows and blocks of columns."""

    directions: list[Row] = field(default_factory=list)
    vectors: list[Float[np.ndarray, " dim"]] = field(default_factory=list)
    scores: list[Row] = field(default_factory=list)
    projections: list[Row] = field(default_factory=list)

    def vector_call(self) -> Columns:
        """The rows of `directions`, as `append_vectors` takes them."""
        matrix = np.stack(self.vectors).astype(np.float32)
        return {"table": "directions", "columns": columns_of(self.directions), "vectors": matrix, "dtype": "float32"}

    def projection_columns(self) -> Columns:
        """The rows of `direction_projections`."""
        return {
            name: pa.concat_arrays([block[name] for block in self.projections]) for name in self.projections[0]
        }  # fmt: skip


def fit_layer(
    place: Place,
    methods: Sequence[str],
    states: Float[np.ndarray, "sequence dim"],
    truth: Bool[np.ndarray, " sequence"],
    prompts: Sequence[str],
    groups: Sequence[Group],
    rows: LayerRows,
) -> list[Fitted]:
    """Fit and score every method in every group; returns the directions of all sequences."""
    fold, prompt = folds(prompts), np.unique(np.array(prompts), return_inverse=True)[1]
    known = np.isfinite(states).all(axis=1)
    fitted = []
    for group in groups:
        some = known & group.member
        x, y, f, p = states[some], truth[some], fold[some], prompt[some]
        for method in methods:
            fitter = partial(fit, method)
            whole = fitter(x, y, f)
            name = direction_id(method, place.site, place.layer, whole.vector)
            about = {
                "method": method, "site": place.site, "layer": place.layer, "at": place.at, "unit": place.unit,
                "within": group.within,
            }  # fmt: skip
            rows.vectors.append(whole.vector)
            rows.directions.append({
                "direction_id": name, **about, "label": place.label, "norm": float(np.linalg.norm(whole.vector)),
                "n_right": int(y.sum()), "n_wrong": int((~y).sum()), "threshold": whole.threshold,
            })  # fmt: skip
            told = tell(x, y, f, fitter)
            rows.scores += _scores(told, y, p, f, {"direction_id": name, "kind": "direction", **about})
            strengths = [None if one is None else one.strength for one in told.fits]
            by_chance = control(tell_shuffled(x, y, f, fitter, strengths), p, f)
            rows.scores.append(_row({"direction_id": None, "kind": "control", **about}, "all", by_chance))
            if group.within is None:
                fitted.append(Fitted(name, whole, told.fits))
    return fitted


def score_baseline(
    baseline: Baseline,
    truth: Bool[np.ndarray, " sequence"],
    prompts: Sequence[str],
    groups: Sequence[Group],
    rows: LayerRows,
) -> None:
    """The rows of one baseline in every group; a row with a reason where it cannot be had."""
    fold, prompt = folds(prompts), np.unique(np.array(prompts), return_inverse=True)[1]
    for group in groups:
        about = {
            "direction_id": None, "kind": "baseline", "baseline_group": baseline.group, "method": baseline.name,
            "within": group.within,
        }  # fmt: skip
        some = group.member.copy()
        if baseline.states is not None:
            some &= np.isfinite(baseline.states).all(axis=1)
        y, f = truth[some], fold[some]
        if baseline.reason or not some.any():
            reason = baseline.reason or "no sequence of the group has a value"
            rows.scores.append(_row(about, "all", Quality(0, 0, reason=reason)))
        elif baseline.states is None:
            rows.scores += _scores(tell_majority(y, f), y, prompt[some], f, about)
        else:
            told = tell(baseline.states[some], y, f, partial(fit, baseline.method))
            rows.scores += _scores(told, y, prompt[some], f, about)


def project_layer(
    snapshot: Snapshot,
    sequences: pl.DataFrame,
    place: Place,
    fitted: Sequence[Fitted],
    prompts: Sequence[str],
    rows: LayerRows,
) -> None:
    """Project every stored state of the labelled sequences on the directions, and on those of the other folds."""
    fold = folds(prompts)
    ids, n_prompt = sequences["sequence_id"].to_numpy(), sequences["n_prompt_tokens"].to_numpy()
    for states in read_states(snapshot, place.site, place.layer, sequences):
        vectors = states.vectors.astype(np.float64)
        vectors = unit_length(vectors) if place.unit else vectors
        held = fold[states.place]
        for one in fitted:
            unseen = np.full(len(vectors), np.nan)
            for number in range(FOLDS):
                found = one.folds[number]
                if found is not None:
                    unseen[held == number] = _along(found, vectors[held == number])
            lacking = np.isnan(unseen)
            rows.projections.append({
                "sequence_id": pa.array(ids[states.place]),
                "position": pa.array((states.step + n_prompt[states.place]).astype(np.int32)),
                "direction_id": pa.repeat(one.direction_id, len(vectors)),
                "layer": pa.array(np.full(len(vectors), place.layer, np.int32)),
                "projection": pa.array(_along(one.whole, vectors).astype(np.float32), from_pandas=True),
                "held_out": pa.array(unseen.astype(np.float32), from_pandas=True),
                "reason": pa.array([NO_FIT if one else None for one in lacking], pa.string()),
            })  # fmt: skip


def _along(found: Fit, vectors: Float[np.ndarray, "row dim"]) -> Float[np.ndarray, " row"]:
    """Margins at length 1; NaN for a direction of no length."""
    norm = float(np.linalg.norm(found.vector))
    return found.margins(vectors) / norm if norm > 0 else np.full(len(vectors), np.nan)


def _scores(told: Told, truth: np.ndarray, prompt: np.ndarray, fold: np.ndarray, about: Json) -> list[Row]:
    """A row for each fold, and one for all."""
    rows = [_row(about, "all", quality(told, truth, prompt, fold))]
    for number in range(FOLDS):
        some = fold == number
        part = Told(told.score[some], told.called[some], told.probability[some], told.calibrated[some], told.fits)
        rows.append(_row(about, str(number), quality(part, truth[some], prompt[some], fold[some])))
    return rows


def _row(about: Row, fold: str, found: Quality) -> Row:
    return {**about, "fold": fold, **vars(found)}
