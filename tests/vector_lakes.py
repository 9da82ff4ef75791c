"""Lakes of vectors that say which token they are of: for tests of readers, samplers and what trains on them."""

from pathlib import Path

import numpy as np

from tracelake.lake.lake import Lake

SPECIAL = 0
"""The one special token id."""


def vector_of(run: int, layer: int, sequence: int, position: int, dim: int) -> np.ndarray:
    """Small numbers that every stored format holds exactly: layer and run, sequence, position in the first three."""
    vector = np.zeros(dim, np.float32)
    vector[:3] = (16 * run + layer, sequence, position)
    vector[3:] = (sequence * 7 + position * 3 + layer + np.arange(dim - 3)) % 32
    return vector


def stored(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values in a stored format; they must be exact in it."""
    if dtype == "bfloat16":
        return (vectors.view(np.uint32) >> 16).astype(np.uint16)
    return vectors.astype(dtype)


def vector_lake(
    path: Path,
    *,
    runs: int = 1,
    segments: int = 2,
    sequences: int = 3,
    length: int = 5,
    dim: int = 8,
    dtype: str = "float32",
    sites: tuple[tuple[int, str], ...] = ((0, "resid_post"),),
    model: dict | None = None,
) -> Lake:
    """Runs `run-00`, ... with `sequences` per segment; every third sequence is of the split validation."""
    lake = Lake.create(path)
    about = {"name": "m", "n_layers": 2, "weights_sha256": "0" * 64, "special_ids": [SPECIAL]} | (model or {})
    for run in range(runs):
        with lake.start_run(f"run-{run:02d}", {"kind": "read", "model": about}) as writer:
            for index in range(segments):
                ids = np.arange(index * sequences, (index + 1) * sequences)
                with writer.segment(index, (index, index + 1)) as segment:
                    add_sequences(segment, run, ids, length=length, dim=dim, dtype=dtype, sites=sites)
            writer.finish()
    return lake


def add_sequences(segment, run: int, ids: np.ndarray, *, length: int, dim: int, dtype: str, sites) -> None:
    """Rows of `sequences`, `token_steps` and `activations` for some sequences."""
    splits = ["validation" if i % 3 == 2 else "train" for i in ids]
    prompts = {"n_prompt_tokens": np.full(len(ids), length, np.int32), "n_generated_tokens": np.zeros(len(ids), int)}
    segment.append("sequences", {"sequence_id": ids.astype(np.int64), "split": splits, **prompts})
    sequence, position = np.repeat(ids, length), np.tile(np.arange(length), len(ids))
    tokens = np.where((sequence + position) % 4 == 3, SPECIAL, 1 + position)
    keys = {"sequence_id": sequence.astype(np.int64), "position": position.astype(np.int32), "stack": "decoder"}
    yes, no = np.ones(len(tokens), bool), np.zeros(len(tokens), bool)
    about = {"token_id": tokens.astype(np.int32), "token": [str(t) for t in tokens], "is_prompt": yes, "is_forced": no}
    segment.append("token_steps", keys | about)
    for layer, site in sites:
        rows = [vector_of(run, layer, s, p, dim) for s, p in zip(sequence, position, strict=True)]
        segment.append_vectors(
            "activations", columns=keys, vectors=stored(np.stack(rows), dtype), dtype=dtype, layer=layer, site=site
        )
