"""Effect vectors of chosen neurons as `.npy` files [N, neurons, d], with the source's names, chunk by chunk."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
from jaxtyping import Float

from ...lake import Lake
from ...lake.exchange.correctness_files import file_prefix
from ...lake.output.files import replaced
from ...lake.reading.batches import read_commits
from ...lake.schema import TABLES
from ...lake.values import Json
from ..models.model import LoadedModel
from ..rereading.second_order.head_paths import HeadPaths
from .outputs import NEURONS_AT_ONCE, HeadOutputs
from .paths import NeuronPaths, Scored

PATHS = "second_order_paths"
CHUNK_BYTES = 128 * 2**20


@dataclass(frozen=True)
class VectorFiles:
    """What was written."""

    folder: str
    files: tuple[str, ...]


def write_vectors(lake: Lake, scored: Scored, paths: NeuronPaths, loaded: LoadedModel, folder: Path) -> VectorFiles:
    """One float32 file per layer, sequences by id and neurons rising; what each is stands in the meta."""
    about = lake.run_json(scored.run_id)
    rows = lake.scan("sequences", scored.run_id).sort("sequence_id").collect()
    prefix = f"{file_prefix(rows, about)}_second_order"
    head_outputs = HeadOutputs(HeadPaths(loaded, scored.direction.vector))
    folder.mkdir(parents=True, exist_ok=True)
    names, ids = [], np.zeros(0, np.int64)
    for layer, neurons in paths.chosen.items():
        if layer + 1 >= loaded.n_layers:
            continue
        ids, q = _scaled_paths(lake, paths, layer, neurons)
        names.append(f"{prefix}_layer{layer}.npy")
        with replaced(folder / names[-1]) as file:
            _write_layer(file, head_outputs, layer, neurons, q)
    names.append(f"{prefix}_meta.json")
    meta = _meta(scored, paths, rows, ids, loaded.d_model)
    with replaced(folder / names[-1]) as file:
        file.write((json.dumps(meta, ensure_ascii=False, indent=1) + "\n").encode())
    return VectorFiles(str(folder), tuple(names))


def _write_layer(
    file: IO[bytes], head_outputs: HeadOutputs, layer: int, neurons: tuple[int, ...], q: np.ndarray
) -> None:
    """Some neurons at a time, for some sequences at a time, each where it belongs in the file."""
    n_sequences, d_model = len(q), head_outputs.paths.loaded.d_model
    header = {"descr": "<f4", "fortran_order": False, "shape": (n_sequences, len(neurons), d_model)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
    begin, row_bytes = file.tell(), 4 * d_model
    for first in range(0, len(neurons), NEURONS_AT_ONCE):
        some = list(neurons[first : first + NEURONS_AT_ONCE])
        outputs = head_outputs.of(layer, some).double().cpu().numpy()
        step = max(1, CHUNK_BYTES // (8 * len(some) * d_model))
        for start in range(0, n_sequences, step):
            part = effect_vectors(q[start : start + step, first : first + len(some)], outputs).astype("<f4")
            for place, rows in enumerate(part, start):
                file.seek(begin + (place * len(neurons) + first) * row_bytes)
                file.write(np.ascontiguousarray(rows).tobytes())


def effect_vectors(
    q: Float[np.ndarray, "sequence neuron path"], outputs: Float[np.ndarray, "neuron path d_model"]
) -> Float[np.ndarray, "sequence neuron d_model"]:
    """What the neurons write into the final state of each sequence."""
    return np.matmul(q.transpose(1, 0, 2), outputs).transpose(1, 0, 2)


def _scaled_paths(
    lake: Lake, paths: NeuronPaths, layer: int, neurons: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Sequence ids and q in the units of the scores, `[sequence neuron path]`."""
    only: dict[str, int | str] = {"analysis_id": paths.analysis_id, "layer": layer}
    pieces = list(read_commits(lake.snapshot(paths.run_id), TABLES[PATHS], only))
    keys = pl.concat([pl.from_arrow(rows.select(["sequence_id", "neuron", "factor"])) for rows, _ in pieces])  # type: ignore[type-var]
    vectors = np.concatenate([found for _, found in pieces])
    order = np.lexsort((keys["neuron"].to_numpy(), keys["sequence_id"].to_numpy()))
    scaled = vectors[order].astype(np.float64) * keys["factor"].to_numpy()[order, None]
    ids = keys["sequence_id"].to_numpy()[order].reshape(-1, len(neurons))[:, 0]
    return ids, scaled.reshape(len(ids), len(neurons), -1)


def _meta(
    scored: Scored, paths: NeuronPaths, rows: pl.DataFrame, ids: np.ndarray, d_model: int
) -> Json:  # fmt: skip
    return {
        "num_examples": len(ids), "hidden_size": d_model, "coefficient": 100.0, "scaling": scored.scaling,
        "at": scored.at, "correctness_direction": scored.direction.name,
        "correctness_direction_sha256": scored.direction.sha256,
        "neuron_indices": {str(layer): list(neurons) for layer, neurons in paths.chosen.items()},
        "dataset": rows["dataset"][0], "split": rows["split"][0], "run_id": scored.run_id,
        "scores_id": scored.analysis_id, "sequence_ids": ids.tolist(),
    }  # fmt: skip
