"""`lake analyze detect`: what tells right from wrong answers, and what it adds to the telemetry."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.errors import ConfigError, UsageError, did_you_mean
from ...lake.snapshot import Snapshot
from ...lake.values import Json
from ..attributes import metadata_values
from ..directions.question import GIVEN, with_labels
from ..option import option
from ..question import Evidence, Question, Reads, Rows
from .applied import applied_rows
from .detectors.models import ASKED
from .detectors.splits import repeated_folds
from .evaluation import Design
from .judged import judged_rows
from .signals import feature_signals
from .signals.signal import BASE, chosen_names
from .signals.token_signals import LEVEL

VERSION = 2
LEAST_PROMPTS = 20
"""Fewer prompts with an answer of either label than this, and nothing is told apart."""
LEAST_IN_LEVEL = 20
"""Sequences of either label that a level needs to be scored apart."""
READ = (
    "sequences", "token_steps", "layer_summaries", "activations", "step_embeddings", "trajectory_summaries",
    "logit_lens", "sae_features", "track_metrics",
)  # fmt: skip


@dataclass(frozen=True)
class Detection(Question):
    """What tells right from wrong answers of unseen prompts, and what each signal adds to the token probabilities."""

    name: ClassVar[str] = "detect"
    label: str = option(
        "correct",
        "What is told apart: a truth column of `sequences`, COLUMN=VALUE, or `labels` (the newest rows of that table).",
    )
    signals: str = option("all", "What is read of the answers: all, or names separated by commas.")
    models: str = option("logistic,forest,boosting", "Kinds of detector, separated by commas.")
    folds: int = option(5, "Parts that the prompts are divided into.")
    repeats: int = option(5, "How often they are divided anew.")
    controls: bool = option(True, "Score controls too: shuffled labels, and other associations of tracks.")
    apply: str | None = option(
        None, "Score this run with the stored detectors of that detection instead of fitting any.", metavar="ANALYSIS"
    )

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError for unknown names and impossible numbers."""
        super().check(run_ids)
        chosen_names(self.signals)
        for model in self.model_names:
            if model not in ASKED:
                raise UsageError(f"There is no --models {model!r}.{did_you_mean(model, ASKED)}")
        if not self.model_names:
            raise UsageError(f"--models names nothing. Possible: {', '.join(ASKED)}.")
        if self.folds < 2 or self.repeats < 1:
            raise UsageError(f"--folds is at least 2 and --repeats 1, not {self.folds} and {self.repeats}.")

    @property
    def model_names(self) -> list[str]:
        """The models, each once."""
        return list(dict.fromkeys(part.strip() for part in self.models.split(",") if part.strip()))

    def needs(self, snapshot: Snapshot) -> Sequence[Question]:
        """The controls of the tracks that are stored."""
        wanted = self.controls and self.apply is None
        if not wanted or not {"tracks", "tracks-source"} & set(chosen_names(self.signals)):
            return []
        return feature_signals.control_questions(snapshot)

    def resolve(self, snapshot: Snapshot) -> Self:
        """The names, each once, and the telemetry, which others are measured against."""
        names = chosen_names(self.signals)
        names = names if BASE in names else [BASE, *names]
        return replace(self, signals=",".join(names), models=",".join(self.model_names))

    def reads(self) -> Reads:
        """All tables that a signal may come from."""
        return [(table, {}) for table in (*READ, *(("labels",) if self.label == GIVEN else ()))]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """All options, and the version of the numbers."""
        return dict(vars(self)) | {"version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """Scores of every signal, or of stored detectors."""
        snapshot = runs[0].snapshot
        names = chosen_names(self.signals)
        if self.apply is not None:
            return applied_rows(lake, snapshot, self.apply, self.label)
        sequences, labels = with_labels(snapshot, self.label)
        prompt = _prompts(sequences)
        _check_classes(labels, prompt, self.label)
        if len(np.unique(prompt)) < self.folds:
            raise UsageError(f"--folds {self.folds}: there are only {len(np.unique(prompt))} prompts.")
        design = Design(
            self.label, sequences["sequence_id"].to_numpy(), labels, prompt,
            repeated_folds(prompt, self.folds, self.repeats), _levels(sequences, labels),
        )  # fmt: skip
        return judged_rows(snapshot, sequences, design, names, self.model_names, controls=self.controls)


def _prompts(sequences: pl.DataFrame) -> np.ndarray:
    """Equal numbers for equal prompts; a sequence without a prompt's id is a prompt of its own."""
    alone = pl.concat_str(pl.lit("#"), pl.col("sequence_id"))
    ids = sequences.select(pl.coalesce("prompt_id", alone).alias("id"))["id"].to_numpy()
    return np.unique(ids, return_inverse=True)[1]


def _check_classes(labels: np.ndarray, prompt: np.ndarray, label: str) -> None:
    n_right, n_wrong = int(labels.sum()), int((~labels).sum())
    with_right, with_wrong = len(np.unique(prompt[labels])), len(np.unique(prompt[~labels]))
    if min(with_right, with_wrong) < LEAST_PROMPTS:
        raise ConfigError(
            f"Of the answers labelled by {label}, {n_right} (of {with_right} prompts) are true and {n_wrong} (of "
            f"{with_wrong} prompts) false; telling them apart needs {LEAST_PROMPTS} prompts with either. "
            "Collect more problems, or harder or easier ones (--dataset, --limit), or sample (--samples)."
        )


def _levels(sequences: pl.DataFrame, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The sequences of each level that has enough of both labels."""
    values = np.array(metadata_values(sequences, LEVEL), dtype=object)
    found = {}
    for value in sorted({one for one in values if one is not None}):
        member = values == value
        if min(labels[member].sum(), (~labels[member]).sum()) >= LEAST_IN_LEVEL:
            found[f"{LEVEL}={value}"] = member
    return found
