"""All signals of a run judged one after the other: alone, beside the telemetry, and against controls."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl
import pyarrow as pa

from ...lake.errors import ConfigError
from ...lake.snapshot import Snapshot
from ...lake.values import Columns, Json, JsonView, Row
from ..question import Rows
from ..row_columns import columns_of
from .evaluation import GAINED, SHUFFLED, Design, DetectionRows, held_out, whole_detector
from .scoring.scores import Score
from .signals.collected import collected
from .signals.signal import BASE, NOT_COMPUTABLE, Signal

BASE_MODEL = "logistic"
"""The telemetry's detector beside which signals with a model of their own are judged."""


def judged_rows(
    snapshot: Snapshot,
    sequences: pl.DataFrame,
    design: Design,
    names: Sequence[str],
    models: Sequence[str],
    *,
    controls: bool,
) -> Rows:
    """The rows of all tables of a detection."""
    signals = [one for one in collected(snapshot, sequences, names) if controls or one.control is None]
    there = [one for one in signals if one.blocks]
    if not any(one.name != "majority" and any(block.columns for block in one.blocks) for one in there):
        why = "; ".join(f"{one.name}: {one.reason}" for one in signals if one.reason)
        raise ConfigError(f"None of these signals is there. {why}.")
    rows = DetectionRows(design)
    for signal in signals:
        if not signal.blocks:
            rows.missing(signal)
    base = next((one for one in there if one.name == BASE), None)
    bases = _bases(base, models, design) if base else {}
    compared: dict[str, list[tuple[Signal, str, Mapping[str, Score]]]] = {}
    fitted: list[Row] = []
    terms: list[Row] = []
    for signal in there:
        for model in signal.models or models:
            _judge(rows, signal, model, fitted, terms, controls=controls)
            if base and signal.name != BASE and not signal.name.startswith((BASE, "majority")):
                both = signal.with_base(base)
                made = held_out(both, model, design)
                found = rows.scored(both, model, made, GAINED)
                if signal.control is None:
                    rows.described(both, model, made)
                compared.setdefault(model if model in bases else BASE_MODEL, []).append((signal, model, found))
    for model, pairs in compared.items():
        rows.gains(pairs, bases[model])
    return Rows(_tables(rows, fitted, terms), sequences.height, _notices(rows, signals))


def _bases(base: Signal, models: Sequence[str], design: Design) -> dict[str, Mapping[str, Score]]:
    """The scores of the telemetry by each model."""
    from .scoring import scores

    made = {model: held_out(base, model, design).told for model in dict.fromkeys((*models, BASE_MODEL))}
    return {
        model: {"auroc": scores.auroc(told), "within_prompt_auroc": scores.within_prompt_auroc(told)}
        for model, told in made.items()
    }


def _judge(
    rows: DetectionRows, signal: Signal, model: str, fitted: list[Row], terms: list[Row],
    *, controls: bool,
) -> None:  # fmt: skip
    """The rows of one signal and model alone, its control with shuffled labels, and the detector of all sequences."""
    design = rows.design
    made = held_out(signal, model, design)
    rows.scored(signal, model, made)
    if signal.control is not None:
        return
    rows.described(signal, model, made)
    rows.weighed(signal, model, made)
    if controls and model != "majority":
        once = replace(design, fold=design.fold[:1], within={})
        mixed = held_out(signal, model, once, once.shuffled())
        rows.scored(replace(signal, control=SHUFFLED), model, mixed, GAINED)
    detector, block = whole_detector(signal, model, design)
    about = {"signal": signal.name, "model": model}
    fitted.append({**about, "block": block, "description": detector.description()})
    mine = detector.terms()
    terms.append(mine | {name: [value] * len(mine["part"]) for name, value in about.items()})


def _tables(rows: DetectionRows, fitted: Sequence[JsonView], terms: Sequence[JsonView]) -> dict[str, Json]:
    return {
        "detections": columns_of(rows.detections),
        "detection_scores": _joined(rows.predictions),
        "detection_curves": columns_of(rows.curves),
        "detection_importances": columns_of(rows.importances),
        "risk_coverage": columns_of(rows.risks),
        "detectors": columns_of(fitted),
        "detector_terms": _joined(terms),
    }


def _joined(blocks: Sequence[JsonView]) -> Columns:
    return {name: pa.concat_arrays([pa.array(block[name]) for block in blocks]) for name in blocks[0]}


def _notices(rows: DetectionRows, signals: Sequence[Signal]) -> list[str]:
    """Sentences of the first model, what is not there, which columns say nothing."""
    notices = [row["sentence"] for row in rows.detections if row["sentence"] and row["score"] == "within_prompt_auroc"]
    absent = [one.name for one in signals if not one.blocks]
    if absent:
        notices.append(f"Not there (see `reason`): {', '.join(absent)}.")
    for signal in signals:
        dropped = signal.dropped() if signal.control is None else []
        if dropped:
            some = ", ".join(dropped[:8]) + (f" and {len(dropped) - 8} more" if len(dropped) > 8 else "")
            notices.append(f"{signal.name}: null or the same everywhere, left out: {some}.")
    reasons = "; ".join(f"{name} {why}" for name, why in NOT_COMPUTABLE.items())
    return [*notices, f"Not computable from tables: {reasons}."]
