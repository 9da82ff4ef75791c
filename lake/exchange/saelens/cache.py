"""The activation cache of SAELens: a folder that `datasets.load_from_disk` opens, written with Arrow alone.

One row per context: the vectors of its first N tokens under the hook's name, and `token_ids`.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...errors import ConfigError, NotFoundError, UsageError
from ...values import Json
from ..sae_weights import hook_of

if TYPE_CHECKING:
    import polars as pl

    from ...lake import Lake

BATCH_BYTES = 64 << 20
DATA = "data-00000-of-00001.arrow"


@dataclass(frozen=True)
class WrittenCache:
    """What was written."""

    folder: str
    hook_name: str
    n_contexts: int
    context_size: int
    d_in: int
    n_left_out: int


def export_cache(
    lake: "Lake", run: str, folder: Path, *, layer: int, site: str, context: int | None = None
) -> WrittenCache:
    """Write the contexts of a run that have at least `context` tokens (if not given: as many as all have)."""
    run_id = lake.resolve_run(run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is there already and not empty: SAELens takes a folder for one cache. Name another."
        )
    lengths = _lengths(lake, run_id)
    size = context or _shared_length(lengths, run_id)
    chosen = lengths.filter(lengths["n"] >= size)
    if chosen.height == 0:
        raise NotFoundError(
            f"No sequence of run {run_id} has {size} tokens; the longest has {lengths['n'].max() or 0}."
        )
    tokens = _tokens(lake, run_id, chosen, size)
    first, _ = next(iter(lake.vectors(layer, site, run_id, batch_rows=1)))
    named = hook_of(int(first["layer"][0].as_py()), site)
    contexts = _contexts(lake, run_id, layer, site, {int(i): row for row, i in enumerate(chosen["sequence_id"])}, size)
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    draft.mkdir(parents=True)
    try:
        written, d_in = _write(draft, named, contexts, tokens, size)
        if written == 0:
            raise NotFoundError(
                f"Run {run_id} has not kept {site} of all of the first {size} tokens of any sequence. "
                f"Collect it with --keep activations:{site}."
            )
        if folder.is_dir():
            folder.rmdir()
        os.replace(draft, folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return WrittenCache(str(folder), named, written, size, d_in, lengths.height - written)


def _lengths(lake: "Lake", run_id: str) -> "pl.DataFrame":
    import polars as pl

    n = pl.col("n_prompt_tokens") + pl.col("n_generated_tokens").fill_null(0)
    return lake.scan("sequences", run_id).select("sequence_id", n.alias("n")).sort("sequence_id").collect()


def _shared_length(lengths: "pl.DataFrame", run_id: str) -> int:
    if lengths["n"].n_unique() != 1:
        raise UsageError(
            f"The sequences of run {run_id} have {lengths['n'].min() or 0} to {lengths['n'].max() or 0} tokens, and "
            "all contexts of a cache are of one length. Say it with --context N (shorter sequences are left out), or "
            "collect with --pack N."
        )
    return int(lengths["n"][0])


def _tokens(lake: "Lake", run_id: str, chosen: "pl.DataFrame", size: int) -> np.ndarray:
    """Token ids [contexts, size] in the order of `chosen`."""
    import polars as pl

    steps = (
        lake.scan("token_steps", run_id)
        .filter(pl.col("position") < size)
        .select("sequence_id", "position", "token_id")
        .collect()
        .join(chosen.select("sequence_id").with_row_index("row"), on="sequence_id")
    )
    tokens = np.zeros((chosen.height, size), np.int32)
    tokens[steps["row"].to_numpy(), steps["position"].to_numpy()] = steps["token_id"].to_numpy()
    return tokens


def _contexts(
    lake: "Lake", run_id: str, layer: int, site: str, rows: dict[int, int], size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Row among the chosen sequences, and the vectors of its first tokens, as soon as all of them are read."""
    waiting: dict[int, tuple[np.ndarray, int]] = {}
    for keys, vectors in lake.vectors(layer, site, run_id):
        ids, positions = keys["sequence_id"].to_numpy(), keys["position"].to_numpy()
        for start, stop in _stretches(ids):
            row = rows.get(int(ids[start]))
            if row is None:
                continue
            inside = positions[start:stop] < size
            empty = (np.empty((size, vectors.shape[1]), np.float32), 0)
            context, n = waiting.pop(row, empty)
            context[positions[start:stop][inside]] = vectors[start:stop][inside]
            n += int(inside.sum())
            if n == size and inside.any():
                yield row, context
            elif n < size:
                waiting[row] = (context, n)


def _stretches(ids: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where rows of one sequence begin and end."""
    cuts = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
    yield from ((start, stop) for start, stop in zip(cuts, cuts[1:], strict=False) if stop > start)


def _write(
    folder: Path, hook: str, contexts: Iterator[tuple[int, np.ndarray]], tokens: np.ndarray, size: int
) -> tuple[int, int]:
    """The Arrow stream and the two JSON files beside it; how many contexts there were, and how wide."""
    first = next(contexts, None)
    if first is None:
        return 0, 0
    d_in = first[1].shape[1]
    features = {
        hook: {"shape": [size, d_in], "dtype": "float32", "_type": "Array2D"},
        "token_ids": {"feature": {"dtype": "int32", "_type": "Value"}, "length": size, "_type": "List"},
    }
    schema = _schema(hook, size, d_in, features)
    most, n, batch = max(1, BATCH_BYTES // (4 * size * d_in)), 0, [first]
    with (folder / DATA).open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for context in contexts:
            if len(batch) == most:
                writer.write_batch(_batch(batch, tokens, schema))
                n, batch = n + len(batch), []
            batch.append(context)
        writer.write_batch(_batch(batch, tokens, schema))
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    (folder / "state.json").write_text(json.dumps(_STATE, indent=2))
    return n + len(batch), d_in


_STATE: Json = {
    "_data_files": [{"filename": DATA}], "_fingerprint": "0" * 16, "_format_columns": None, "_format_kwargs": {},
    "_format_type": None, "_output_all_columns": False, "_split": None,
}  # fmt: skip


def _schema(hook: str, size: int, d_in: int, features: Json) -> pa.Schema:
    """The columns with what `datasets` writes beside them, so that it knows its own types again."""
    about = {
        "ARROW:extension:name": "datasets.features.features.Array2DExtensionType",
        "ARROW:extension:metadata": json.dumps([[size, d_in], "float32"]),
    }
    fields = [
        pa.field(hook, pa.list_(pa.list_(pa.float32())), metadata=about),
        pa.field("token_ids", pa.list_(pa.int32(), size)),
    ]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _batch(batch: list[tuple[int, np.ndarray]], tokens: np.ndarray, schema: pa.Schema) -> pa.RecordBatch:
    n, (size, d_in) = len(batch), batch[0][1].shape
    values = pa.array(np.concatenate([context for _, context in batch]).reshape(-1))
    inner = pa.ListArray.from_arrays(pa.array(np.arange(0, n * size * d_in + 1, d_in, dtype=np.int32)), values)
    outer = pa.ListArray.from_arrays(pa.array(np.arange(0, n * size + 1, size, dtype=np.int32)), inner)
    ids = pa.array(tokens[[row for row, _ in batch]].reshape(-1))
    return pa.RecordBatch.from_arrays([outer, pa.FixedSizeListArray.from_arrays(ids, size)], schema=schema)
