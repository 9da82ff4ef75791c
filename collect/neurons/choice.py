"""Which neurons are looked at one by one: those with the largest effects of every layer, or those that a file names."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...lake.errors import NotFoundError, UsageError
from ...lake.reading.batches import read_commits
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot

Chosen = Mapping[int, tuple[int, ...]]
"""Neurons by layer, both rising."""


def choose_neurons(snapshot: Snapshot, scores_id: str, given: str, widths: list[int]) -> Chosen:
    """`given` is a number of neurons of each layer, or a file of them; UsageError for neurons that do not exist."""
    if re.fullmatch(r"\d+", given):
        if int(given) < 1:
            raise UsageError("The number of neurons must be at least 1.")
        return _strongest(snapshot, scores_id, int(given), widths)
    chosen = read_neurons(Path(given))
    for layer, neurons in chosen.items():
        if not 0 <= layer < len(widths):
            raise UsageError(
                f"{given}: there is no layer {layer}: the model has {len(widths)}, 0 to {len(widths) - 1}."
            )
        if neurons[-1] >= widths[layer]:
            raise UsageError(
                f"{given}: there is no neuron {neurons[-1]} in layer {layer}: it has {widths[layer]:,}, 0 to "
                f"{widths[layer] - 1:,}."
            )
    return chosen


def read_neurons(path: Path) -> Chosen:
    """A text file with `LAYER NEURON` (or `LAYER,NEURON`) per line, or a ranking as JSON: layer to neuron indexes."""
    if not path.is_file():
        raise NotFoundError(
            f"There is no file {path}. Neurons are a number (of each layer), or a file with LAYER,NEURON per line."
        )
    text = path.read_text(encoding="utf-8")
    pairs = _from_json(path, text) if path.suffix == ".json" else _from_lines(path, text)
    chosen: dict[int, set[int]] = {}
    for layer, neuron in pairs:
        chosen.setdefault(layer, set()).add(neuron)
    if not chosen:
        raise UsageError(f"{path} names no neurons. Write LAYER,NEURON per line.")
    return {layer: tuple(sorted(chosen[layer])) for layer in sorted(chosen)}


def _from_lines(path: Path, text: str) -> list[tuple[int, int]]:
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"\s*(\d+)[\s,;.]+(\d+)\s*", line)
        if match is None:
            raise UsageError(f"{path}, line {number}: {line.strip()!r} is no layer and neuron. Write LAYER,NEURON.")
        pairs.append((int(match[1]), int(match[2])))
    return pairs


def _from_json(path: Path, text: str) -> list[tuple[int, int]]:
    """{"3": [17, 5]} or, as rankings have it, {"3": [{"neuron_index": 17, ...}]}."""
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}.") from error
    layers = value.items() if isinstance(value, dict) else ()
    pairs = []
    for layer, neurons in layers:
        for one in neurons if isinstance(neurons, list) else [None]:
            index = one.get("neuron_index", one.get("neuron")) if isinstance(one, dict) else one
            if not re.fullmatch(r"\d+", str(layer)) or type(index) is not int or index < 0:
                raise UsageError(f'{path}: write {{"LAYER": [NEURON, ...]}}; {layer!r}: {one!r} is none.')
            pairs.append((int(layer), index))
    return pairs


def _strongest(snapshot: Snapshot, scores_id: str, n: int, widths: list[int]) -> Chosen:
    """The neurons with the largest mean size of second-order effect; the last layer, where all are 0, is left out."""
    chosen = {}
    for layer in range(len(widths) - 1):
        only: Mapping[str, int | str] = {"analysis_id": scores_id, "layer": layer, "effect": "second_order"}
        pieces = list(read_commits(snapshot, TABLES["second_order_scores"], only))
        sizes = sum(np.abs(vectors).sum(0, dtype=np.float64) for _, vectors in pieces)
        order = np.argsort(-np.asarray(sizes), kind="stable")[:n]
        chosen[layer] = tuple(sorted(order.tolist()))
    if not chosen:
        raise UsageError("The model has one layer: nothing follows its neurons.")
    return chosen
