"""Signals judged: out-of-fold predictions of every signal and model, and all rows that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from ...lake.values import JsonView, Row
from .detectors.detector import Detector
from .detectors.models import STRENGTHS, Training, fit, predict
from .scoring import curves, scores, selective
from .scoring.scores import Score, Told
from .signals.signal import BASE, Block, Signal

GAINED = ("auroc", "within_prompt_auroc")
"""Scores in which a signal is compared with the telemetry."""
SHUFFLED = "labels shuffled"


@dataclass(frozen=True)
class Design:
    """Whose labels are told, in which folds."""

    label: str
    sequence_id: Int[np.ndarray, " sequence"]
    labels: Bool[np.ndarray, " sequence"]
    prompt: Int[np.ndarray, " sequence"]
    """From 0, without a hole."""
    fold: Int[np.ndarray, "repeat sequence"]
    within: Mapping[str, Bool[np.ndarray, " sequence"]] = field(default_factory=dict)
    """Groups that are scored apart too: `level=1` and so on."""
    strengths: Sequence[float] = STRENGTHS

    def shuffled(self) -> Bool[np.ndarray, "repeat sequence"]:
        """The labels in another order in each repeat, the same orders every time."""
        return np.stack([np.random.default_rng(seed).permutation(self.labels) for seed in range(len(self.fold))])


@dataclass(frozen=True)
class HeldOut:
    """Predictions by detectors that had not seen the prompt, and these detectors."""

    told: Told
    detectors: tuple[tuple[Detector, int, Int[np.ndarray, " sequence"], int], ...]
    """Detector, place of its block, the held-out sequences, repeat."""


def held_out(
    signal: Signal, model: str, design: Design, labels: Bool[np.ndarray, "repeat sequence"] | None = None
) -> HeldOut:
    """Each fold of each repeat told by a detector fitted to the others; a fold that lacks a class tells their share."""
    every = np.tile(design.labels, (len(design.fold), 1)) if labels is None else labels
    probability = np.empty(design.fold.shape)
    detectors = []
    blocks = signal.blocks or (Block("none", (), np.empty((len(design.labels), 0))),)
    for repeat, fold in enumerate(design.fold):
        for number in np.unique(fold):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            known = every[repeat, inside]
            training = Training(known, design.prompt[inside], design.strengths)
            one_class = known.all() or not known.any()
            detector, place = fit("majority" if one_class else model, blocks, inside, training)
            probability[repeat, outside] = predict(detector, blocks[place], outside)
            detectors.append((detector, place, outside, repeat))
    told = Told(probability, every, design.prompt, design.fold, scores.FITTED_HERE)
    return HeldOut(told, tuple(detectors))


@dataclass
class DetectionRows:
    """The rows of all tables, as they are computed."""

    design: Design
    detections: list[Row] = field(default_factory=list)
    predictions: list[Row] = field(default_factory=list)
    """One block of columns per signal and model."""
    risks: list[Row] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)
    importances: list[Row] = field(default_factory=list)

    def missing(self, signal: Signal) -> None:
        """One row for a signal that is not there."""
        self._row(signal, None, "auroc", Score(np.nan, np.empty(0), signal.reason))

    def scored(self, signal: Signal, model: str, made: HeldOut, names: Sequence[str] | None = None) -> dict[str, Score]:
        """Rows of all scores, overall and within each group; returns the overall ones."""
        return self.scored_told(signal, model, made.told, names)

    def scored_told(
        self, signal: Signal, model: str, told: Told, names: Sequence[str] | None = None
    ) -> dict[str, Score]:
        """The same of predictions, whoever made them."""
        found = {name: score(told) for name, score in scores.SCORES.items() if names is None or name in names}
        if names is None:
            found |= selective.summaries(told)
        for name, score in found.items():
            self._row(signal, model, name, score)
        for group, member in self.design.within.items() if signal.control != SHUFFLED else ():
            part = told.part(member)
            self._row(signal, model, "auroc", scores.auroc(part), group, part)
            self._row(signal, model, "within_prompt_auroc", scores.within_prompt_auroc(part), group, part)
        return found

    def described(self, signal: Signal, model: str, made: HeldOut) -> None:
        """Predictions and curves of a signal that is no control."""
        told, about = made.told, {"signal": signal.name, "model": model}
        n_repeats, n = told.probability.shape
        self.predictions.append({
            "sequence_id": np.tile(self.design.sequence_id, n_repeats), "signal": [signal.name] * (n * n_repeats),
            "model": [model] * (n * n_repeats), "repeat": np.repeat(np.arange(n_repeats, dtype=np.int32), n),
            "fold": told.fold.ravel().astype(np.int32), "score": told.probability.ravel(), "label": told.labels.ravel(),
        })  # fmt: skip
        coverage, risk, threshold = selective.curve(told)
        self.risks += [
            {**about, "place": place, "coverage": c, "risk": r, "threshold": t}
            for place, (c, r, t) in enumerate(zip(coverage.tolist(), risk.tolist(), threshold.tolist(), strict=True))
        ]
        self.curves += [{**about, **point} for point in curves.all_curves(told)]

    def weighed(self, signal: Signal, model: str, made: HeldOut) -> None:
        """What each column of a signal is worth."""
        about = {"signal": signal.name, "model": model}
        self.importances += [{**about, **row} for row in curves.importances(signal, made)]

    def gains(self, compared: Sequence[tuple[Signal, str, Mapping[str, Score]]], base: Mapping[str, Score]) -> None:
        """Fill in what each signal, beside the telemetry, gains over it; Holm's p over those that are no control."""
        for name in GAINED:
            rows = [(signal, kind, scores.gain(with_base[name], base[name])) for signal, kind, with_base in compared]
            adjusted = iter(scores.holm([gained.p for signal, _, gained in rows if signal.control is None]))
            for signal, kind, gained in rows:
                row = self._find(signal, kind, name)
                row |= {"gain": gained.value, "gain_low": gained.low, "gain_high": gained.high}
                if signal.control is None:
                    row["p_holm"] = next(adjusted)
                    row["sentence"] = sentence(signal.name, name, row)

    def _find(self, signal: Signal, model: str, score: str) -> Row:
        key = {"signal": signal.name, "model": model, "control": signal.control, "score": score, "within": None}
        return next(row for row in self.detections if all(row[name] == value for name, value in key.items()))

    def _row(
        self,
        signal: Signal,
        model: str | None,
        name: str,
        score: Score,
        within: str | None = None,
        part: Told | None = None,
    ) -> None:
        low, high = score.interval
        prompts = self.design.prompt if part is None else part.prompt
        reason = score.reason
        if reason is None and part is None and signal.n_lacking:
            reason = f"{signal.n_lacking} sequences have no value of it: they are told the training mean"
        self.detections.append({
            "label": self.design.label, "signal": signal.name, "model": model, "control": signal.control,
            "within": within, "score": name, "n": len(prompts), "n_prompts": int(prompts.max(initial=-1)) + 1,
            "value": score.value, "ci_low": low, "ci_high": high, "gain": np.nan, "gain_low": np.nan,
            "gain_high": np.nan, "p_holm": np.nan, "sentence": None, "reason": reason,
        })  # fmt: skip


def sentence(signal: str, score: str, row: JsonView) -> str | None:
    """What the interval of a gain says, in words."""
    if not np.isfinite(row["gain"]):
        return None
    what = "AUROC" if score == "auroc" else "AUROC within prompts"
    numbers = f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}], Holm p {row['p_holm']:.3g}"
    shown = row["p_holm"] < 0.05
    if shown and row["gain_low"] > 0:
        return f"{signal} adds to {BASE}: {what} {numbers}."
    if shown and row["gain_high"] < 0:
        return f"{signal} beside {BASE} does harm: {what} {numbers}."
    return f"{signal} adds nothing to {BASE} that can be shown: {what} {numbers}."


def whole_detector(signal: Signal, model: str, design: Design) -> tuple[Detector, str]:
    """The detector of all sequences, and the name of its block."""
    blocks = signal.blocks or (Block("none", (), np.empty((len(design.labels), 0))),)
    rows = np.arange(len(design.labels))
    detector, place = fit(model, blocks, rows, Training(design.labels, design.prompt, design.strengths))
    return detector, blocks[place].name


def shares(values: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    """2.5 and 97.5 % of draws, unknown ones left out."""
    known = values[np.isfinite(values)]
    return (float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975))) if len(known) else (np.nan, np.nan)
