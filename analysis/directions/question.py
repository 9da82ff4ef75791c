"""`directions` and what belongs to them: which way states differ between right and wrong answers, and is it news?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.errors import ConfigError, NotFoundError, UsageError, did_you_mean
from ...lake.reading.frames import scan_files
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from ...lake.values import Json
from ..attributes import groups, labels
from ..option import option
from ..paths.states import At, answers, chosen_layers, states_at
from ..question import Evidence, Question, Reads, Rows
from ..row_columns import columns_of
from .baselines import baselines
from .estimators import METHODS, unit_length
from .rows import Group, LayerRows, Place, fit_layer, project_layer, score_baseline

VERSION = 1
LEAST = 10
"""Fewer labels of a class than this give no direction."""
GIVEN = "labels"
"""The value of `label` that means the newest rows of the table `labels`."""


@dataclass(frozen=True)
class Directions(Question):
    """The direction that tells right from wrong answers in each layer, and whether it beats trivial baselines."""

    name: ClassVar[str] = "directions"
    site: str = option("resid_post", "Site of the states, e.g. resid_post or final_norm.")
    layer: str = option("all", "Layers: all that are stored, or e.g. 0,6,-1 or 8-11.", metavar="LAYERS")
    at: At = option("prompt", "States at the prompt's last token, the answer's last token, or the answer's mean.")
    method: str = option(",".join(METHODS), "How directions are fitted; several separated by commas.")
    unit: bool = option(False, "Scale states to length 1 first.")
    label: str = option(
        "correct",
        "What is told apart: a truth column of `sequences`, COLUMN=VALUE, or `labels` (the newest rows of that table).",
    )
    within: str | None = option(
        None, "Repeat everything inside each value of this column of `sequences` or key of their metadata."
    )

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError for an unknown method."""
        super().check(run_ids)
        for one in self.methods:
            if one not in METHODS:
                raise UsageError(f"There is no --method {one!r}.{did_you_mean(one, METHODS)}")

    @property
    def methods(self) -> list[str]:
        """The methods, each once."""
        return list(dict.fromkeys(part.strip() for part in self.method.split(",")))

    def resolve(self, snapshot: Snapshot) -> Self:
        """The layers by number."""
        layers = chosen_layers(snapshot, self.site, self.layer)
        return replace(self, layer=",".join(map(str, layers)), method=",".join(self.methods))

    def reads(self) -> Reads:
        """Sequences, their tokens, given labels, and the states."""
        states = [("activations", {"site": self.site, "layer": int(layer)}) for layer in self.layer.split(",")]
        given: Reads = [("labels", {})] if self.label == GIVEN else []
        return [("sequences", {}), ("token_steps", {}), *given, *states]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """All options, and the version of the numbers."""
        return dict(vars(self)) | {"version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """Directions, their scores beside baselines and controls, and the projections of every stored token."""
        snapshot = runs[0].snapshot
        sequences, truth = labelled(snapshot, self.label)
        chosen, notices = self._groups(sequences, truth)
        prompts = sequences["prompt_id"].fill_null("").to_list()
        found = LayerRows()
        for layer in map(int, self.layer.split(",")):
            place = Place(self.site, layer, self.at, self.unit, self.label)
            states = states_at(snapshot, self.site, layer, sequences, self.at)
            known = np.isfinite(states).all(axis=1)
            check_classes(truth[known], f"with a state of {self.site}, layer {layer}, at {self.at}")
            states = unit_length(states) if self.unit else states
            fitted = fit_layer(place, self.methods, states, truth, prompts, chosen, found)
            project_layer(snapshot, sequences, place, fitted, prompts, found)
        for baseline in baselines(snapshot, sequences, self.at):
            score_baseline(baseline, truth, prompts, chosen, found)
        tables = {
            "direction_scores": columns_of(found.scores),
            "direction_projections": found.projection_columns(),
        }
        return Rows(tables, sequences.height, notices, [found.vector_call()])

    def _groups(self, sequences: pl.DataFrame, truth: np.ndarray) -> tuple[list[Group], list[str]]:
        """All sequences, and each value of `within` that has enough of both classes."""
        every = [Group(None, np.ones(len(truth), bool))]
        if self.within is None:
            return every, []
        values = groups(sequences, self.within, "--within")
        notices = []
        for value in sorted(set(values.drop_nulls().to_list())):
            member = (values == value).fill_null(False).to_numpy()
            group = Group(f"{self.within}={value}", member)
            n_right, n_wrong = int(truth[member].sum()), int((~truth[member]).sum())
            if min(n_right, n_wrong) < LEAST:
                notices.append(f"{group.within}: {n_right} right and {n_wrong} wrong, fewer than {LEAST}: left out.")
            else:
                every.append(group)
        return every, notices


def labelled(snapshot: Snapshot, label: str) -> tuple[pl.DataFrame, np.ndarray]:
    """The sequences that have a label, and the labels; ConfigError where a class is too small."""
    sequences, kept = with_labels(snapshot, label)
    check_classes(kept, f"labelled by {label}")
    return sequences, kept


def with_labels(snapshot: Snapshot, label: str) -> tuple[pl.DataFrame, np.ndarray]:
    """The sequences that have a label, and the labels; ConfigError if none has."""
    sequences = answers(snapshot)
    truth = _given(snapshot, sequences) if label == GIVEN else labels(sequences, label)
    known = truth.is_not_null()
    if not known.any():
        [run_id] = snapshot.runs
        raise ConfigError(
            f"No sequence of run {run_id} has a value of {label}: there is nothing to tell apart. "
            "Collect prompts with an `answer`, or bring labels with `lake import labels`."
        )
    return sequences.filter(known), truth.filter(known).to_numpy().astype(bool)


def check_classes(truth: np.ndarray, which: str) -> None:
    """ConfigError if a class is empty or has fewer than `LEAST` sequences."""
    n_right, n_wrong = int(truth.sum()), int((~truth).sum())
    if min(n_right, n_wrong) < LEAST:
        raise ConfigError(
            f"Of the sequences {which}, {n_right} are true and {n_wrong} false; a direction needs {LEAST} of each. "
            "Collect more problems, or harder or easier ones (--dataset, --limit), or sample (--samples)."
        )


def _given(snapshot: Snapshot, sequences: pl.DataFrame) -> pl.Series:
    """The newest given label of each sequence."""
    rows = scan_files(TABLES["labels"], snapshot).select("sequence_id", "analysis_id", "correct").collect()
    if not rows.height:
        [run_id] = snapshot.runs
        raise NotFoundError(
            f"Run {run_id} has no rows in `labels`: `lake import labels` or `lake analyze labels` adds."
        )
    order = {
        record.analysis["analysis_id"]: n for log in snapshot.runs.values() for n, record in enumerate(log.derived)
    }
    newest = rows.sort(pl.col("analysis_id").replace_strict(order, default=-1, return_dtype=pl.Int64)).unique(
        "sequence_id", keep="last"
    )
    return sequences.select("sequence_id").join(newest, on="sequence_id", how="left", maintain_order="left")["correct"]
