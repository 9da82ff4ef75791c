"""Effect vectors of chosen neurons as `.npy` files [N, neurons, d], with the source's names, chunk by chunk."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.exchange.correctness_files import file_prefix
from ...lake.output import replaced
from ...lake.reading.batches import read_commits
from ...lake.schema import TABLES
from ..models.model import LoadedModel
from ..rereading.head_paths import HeadPaths
from .outputs import path_vectors
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
    head_paths = HeadPaths(loaded, scored.direction.vector)
    folder.mkdir(parents=True, exist_ok=True)
    names, ids = [], np.zeros(0, np.int64)
    for layer, neurons in paths.chosen.items():
        if layer + 1 >= loaded.n_layers:
            continue
        ids, q = _scaled_paths(lake, paths, layer, neurons)
        outputs = path_vectors(head_paths, layer, list(neurons)).cpu().numpy()
        names.append(f"{prefix}_layer{layer}.npy")
        with replaced(folder / names[-1]) as file:
            shape = (len(ids), len(neurons), loaded.d_model)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
            step = max(1, CHUNK_BYTES // (8 * len(neurons) * loaded.d_model))
            for start in range(0, len(ids), step):
                part = np.einsum("snk,nkd->snd", q[start : start + step], outputs, optimize=True)
                file.write(np.ascontiguousarray(part, "<f4").tobytes())
    names.append(f"{prefix}_meta.json")
    meta = _meta(scored, paths, rows, ids, loaded.d_model)
    with replaced(folder / names[-1]) as file:
        file.write((json.dumps(meta, ensure_ascii=False, indent=1) + "\n").encode())
    return VectorFiles(str(folder), tuple(names))


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
) -> dict[str, Any]:  # fmt: skip
    return {
        "num_examples": len(ids), "hidden_size": d_model, "coefficient": 100.0, "scaling": scored.scaling,
        "at": scored.at, "correctness_direction": scored.direction.name,
        "correctness_direction_sha256": scored.direction.sha256,
        "neuron_indices": {str(layer): list(neurons) for layer, neurons in paths.chosen.items()},
        "dataset": rows["dataset"][0], "split": rows["split"][0], "run_id": scored.run_id,
        "scores_id": scored.analysis_id, "sequence_ids": ids.tolist(),
    }  # fmt: skip
