"""Another run scored by stored detectors."""

from typing import Any

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.errors import ConfigError, NotFoundError, did_you_mean
from ...lake.snapshot import Snapshot
from ...lake.values import Columns, Row
from ..directions.question import GIVEN, with_labels
from ..paths.states import answers
from ..question import Rows
from ..row_columns import columns_of
from .detectors.detector import Detector
from .detectors.models import predict
from .evaluation import Design, DetectionRows
from .scoring.scores import Told
from .signals.collected import collected
from .signals.signal import Signal


def applied_rows(lake: Lake, snapshot: Snapshot, analysis_id: str, label: str) -> Rows:
    """What the detectors of that analysis say of every answer of the run, and how well, where labels are known."""
    stored = stored_detectors(lake, analysis_id)
    sequences = answers(snapshot)
    names = list(dict.fromkeys(signal.partition(":")[0] for signal, _ in stored))
    signals = {one.name: one for one in collected(snapshot, sequences, names) if one.control is None}
    labels = _labels(snapshot, sequences, label)
    rows, notices = None, []
    predictions: list[Row] = []
    known = np.array([one is not None for one in labels])
    told: dict[tuple[str, str], np.ndarray] = {}
    for (name, model), (detector, block) in stored.items():
        signal = signals[name]
        if not signal.blocks:
            notices.append(f"{name} is not there: {signal.reason}.")
            continue
        told[name, model] = predict(detector, _block(signal, block), np.arange(sequences.height))
        n = sequences.height
        predictions.append({
            "sequence_id": sequences["sequence_id"].to_list(), "signal": [name] * n, "model": [model] * n,
            "score": told[name, model].tolist(), "label": labels,
        })  # fmt: skip
    if not predictions:
        raise ConfigError(f"The run has none of the signals of {analysis_id}: {' '.join(notices)}")
    tables: Columns = {
        "detection_scores": {name: [v for one in predictions for v in one[name]] for name in predictions[0]}
    }
    if known.any():
        rows = _scored(sequences, label, labels, known, signals, told)
        tables["detections"] = columns_of(rows.detections)
    return Rows(tables, sequences.height, notices)


def stored_detectors(lake: Lake, analysis_id: str) -> dict[tuple[str, str], tuple[Detector, str]]:
    """The detectors of an analysis, and the their blocks, by signal and model; NotFoundError if there are none."""
    mine = pl.col("analysis_id") == analysis_id
    rows = lake.scan("detectors").filter(mine).collect()
    if not rows.height:
        known = lake.scan("detectors").select("analysis_id").unique().collect()["analysis_id"].to_list()
        raise NotFoundError(
            f"No detectors of an analysis {analysis_id!r} are stored.{did_you_mean(analysis_id, known)}"
        )
    terms = lake.scan("detector_terms").filter(mine).collect()
    found = {}
    for row in rows.iter_rows(named=True):
        part = terms.filter(signal=row["signal"], model=row["model"])
        arrays = {name: part[name].to_numpy() for name in ("part", "row", "column", "value")}
        found[row["signal"], row["model"]] = (Detector.from_terms(row["description"], arrays), row["block"])
    return found


def _block(signal: Signal, name: str) -> Any:
    for block in signal.blocks:
        if block.name == name:
            return block
    kept = ", ".join(block.name for block in signal.blocks)
    raise ConfigError(f"The detector of {signal.name} reads {name}, which this run does not store. Stored: {kept}.")


def _labels(snapshot: Snapshot, sequences: pl.DataFrame, label: str) -> list[bool | None]:
    """The label of every sequence; null where it is not known."""
    try:
        labelled, truth = with_labels(snapshot, label)
    except ConfigError:
        return [None] * sequences.height
    except NotFoundError:
        if label == GIVEN:
            return [None] * sequences.height
        raise
    by_id = dict(zip(labelled["sequence_id"].to_list(), truth.tolist(), strict=True))
    return [by_id.get(one) for one in sequences["sequence_id"].to_list()]


def _scored(
    sequences: pl.DataFrame, label: str, labels: list[bool | None], known: np.ndarray, signals: dict[str, Signal],
    told: dict[tuple[str, str], np.ndarray],
) -> DetectionRows:  # fmt: skip
    prompt = np.unique(sequences["prompt_id"].fill_null("").to_numpy()[known], return_inverse=True)[1]
    truth = np.array([bool(one) for one in labels])[known]
    fold = np.zeros((1, len(truth)), np.int64)
    rows = DetectionRows(Design(label, sequences["sequence_id"].to_numpy()[known], truth, prompt, fold))
    for (name, model), probability in told.items():
        rows.scored_told(signals[name], model, Told(probability[known][None], truth[None], prompt, fold))
    return rows
