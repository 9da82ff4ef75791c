"""Activations as matrix files: read back by the formats' own libraries, value by value."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tracelake.cli import app
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.exchange.vector_files import export_vectors
from tracelake.lake.lake import Lake

DIM, LAYER = 5, 3


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()


def written(path: Path, dtype: str, *, sequences: int = 4, tokens: int = 7, dim: int = DIM) -> np.ndarray:
    """A run of two segments; the values as float32 [sequences x tokens, dim]."""
    values = np.random.default_rng(0).normal(size=(sequences * tokens, dim)).astype(np.float32)
    lake = Lake.create(path)
    with lake.start_run("vectors-01", {"kind": "generate", "model": {"name": "m", "n_layers": 4}}) as writer:
        for index in range(2):
            half = slice(index * len(values) // 2, (index + 1) * len(values) // 2)
            ids = np.repeat(np.arange(sequences, dtype=np.int64), tokens)[half]
            with writer.segment(index, (index, index + 1)) as segment:
                segment.append("sequences", {"sequence_id": np.unique(ids)})
                columns = {
                    "sequence_id": ids,
                    "position": np.tile(np.arange(tokens, dtype=np.int32), sequences)[half],
                    "stack": "decoder",
                }
                stored = values[half]
                if dtype == "int8":
                    columns["scale"] = np.full(len(ids), 0.25, np.float32)
                    stored = np.round(stored * 4).astype(np.int8)
                elif dtype == "bfloat16":
                    stored = bfloat16_bits(stored)
                else:
                    stored = stored.astype(dtype)
                segment.append_vectors(
                    "activations", columns=columns, vectors=stored, dtype=dtype, layer=LAYER, site="resid_post"
                )
        writer.finish()
    if dtype == "int8":
        return np.round(values * 4).astype(np.float32) * np.float32(0.25)
    return torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()


def read(path: Path) -> tuple[np.ndarray, str]:
    """The matrix as float32, and the number format in the file."""
    if path.suffix == ".npy":
        found = np.load(path, allow_pickle=False)
        return found.astype(np.float32), str(found.dtype)
    if path.suffix == ".safetensors":
        (tensor,) = load_file(path).values()
        return tensor.float().numpy(), str(tensor.dtype).removeprefix("torch.")
    column = pl.read_parquet(path)["vector"]
    return column.to_numpy(), str(column.to_numpy().dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("form", ["npy", "safetensors", "parquet"])
def test_values_keys_and_number_format(tmp_path: Path, dtype: str, form: str) -> None:
    values = written(tmp_path / "lake", dtype)
    target = tmp_path / f"out.{form}"
    done = export_vectors(
        Lake.open(tmp_path / "lake"), "latest", layer=-1, site="resid_post", form=form, target=target, batch_rows=3
    )
    found, kind = read(target)
    assert np.array_equal(found, values)
    kept = {"npy": ("float32", "float16"), "safetensors": ("float32", "float16", "bfloat16"), "parquet": ("float32",)}
    assert kind == done.dtype == (dtype if dtype in kept[form] else "float32")
    assert (done.rows, done.dim) == values.shape
    keys = pl.read_parquet(target if form == "parquet" else f"{target}.keys.parquet")
    assert keys["sequence_id"].to_list() == [i for i in range(4) for _ in range(7)]
    assert keys["position"].to_list() == list(range(7)) * 4
    assert set(keys["stack"]) == {"decoder"}
    assert not list(tmp_path.glob(".*.part"))


def test_command_line(tmp_path: Path) -> None:
    values = written(tmp_path / "lake", "float32")
    target = tmp_path / "resid.npy"
    command = ["export", "vectors", "--layer", "3", "-o", str(target), "--lake", str(tmp_path / "lake")]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(done.stdout) == {
        "file": str(target),
        "index": f"{target}.keys.parquet",
        "rows": 28,
        "dim": DIM,
        "dtype": "float32",
    }
    assert np.array_equal(np.load(target), values)
    for change, error in (
        (["--layer", "2"], NotFoundError),
        (["--layer", "-5"], NotFoundError),
        (["--site", "mlp_out"], NotFoundError),
        (["--format", "csv"], UsageError),
    ):
        assert isinstance(CliRunner().invoke(app, [*command, *change]).exception, error), change
    assert np.array_equal(np.load(target), values)


def test_memory_holds_a_batch(tmp_path: Path) -> None:
    peaks = []
    for sequences in (40, 400):
        path = tmp_path / str(sequences)
        written(path, "float32", sequences=sequences, tokens=50, dim=64)
        tracemalloc.start()
        export_vectors(
            Lake.open(path), "latest", layer=3, site="resid_post", form="npy", target=tmp_path / "o.npy", batch_rows=256
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (tmp_path / "o.npy").stat().st_size > 5e6
    assert peaks[1] < 1.5 * peaks[0] < 3e6, peaks
