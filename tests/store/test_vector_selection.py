"""Vectors of chosen tokens: the right rows in the right order, beside labels that belong to them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.exchange.vector_files import export_vectors
from tracelake.lake.lake import Lake

N_SEQUENCES, N_PROMPT, N_GENERATED, DIM, N_LAYERS = 6, 3, 4, 5, 4
LENGTH = N_PROMPT + N_GENERATED


def value_of(run: int, layer: int, sequence: int, position: int) -> np.ndarray:
    """What the vector of a token must be: made of its key alone."""
    key = 1000 * run + 100 * layer + 10 * sequence + position
    return (key + np.arange(DIM) / 8).astype(np.float32)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two runs; the second keeps vectors of generated tokens only."""
    lake = Lake.create(tmp_path_factory.mktemp("selection") / "lake")
    for run in (0, 1):
        with lake.start_run(
            f"run-0{run}", {"kind": "generate", "model": {"name": "m", "n_layers": N_LAYERS}}
        ) as writer:
            for index, ids in enumerate(([4, 5, 1], [0, 3, 2])):
                with writer.segment(index, (index, index + 1)) as segment:
                    _write(segment, run, ids)
            writer.finish()
    return lake


def _write(segment, run: int, ids: list[int]) -> None:
    sequences = np.repeat(np.array(ids, np.int64), LENGTH)
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), len(ids))
    steps = [None if p < N_PROMPT else p - N_PROMPT for p in positions.tolist()]
    segment.append(
        "sequences",
        {
            "sequence_id": np.array(ids, np.int64),
            "n_prompt_tokens": np.full(len(ids), N_PROMPT, np.int32),
            "n_generated_tokens": np.full(len(ids), N_GENERATED, np.int32),
            "correct": [sequence % 2 == 0 for sequence in ids],
        },
    )
    tokens = {"sequence_id": sequences, "position": positions, "stack": "decoder", "step": steps}
    tokens |= {"token_id": positions, "token": [f"t{p}" for p in positions], "is_prompt": positions < N_PROMPT}
    segment.append("token_steps", tokens | {"is_forced": np.zeros(len(positions), bool)})
    kept = positions >= (0 if run == 0 else N_PROMPT)
    for layer in (1, N_LAYERS - 1):
        vectors = np.stack([value_of(run, layer, s, p) for s, p in zip(sequences[kept], positions[kept], strict=True)])
        columns = {"sequence_id": sequences[kept], "position": positions[kept], "stack": "decoder"}
        segment.append_vectors(
            "activations", columns=columns, vectors=vectors, dtype="float32", layer=layer, site="resid_post"
        )


def expected(run: int, layer: int, rows: pl.DataFrame) -> np.ndarray:
    keys = rows.select("sequence_id", "position").rows()
    return np.stack([value_of(run, layer, sequence, position) for sequence, position in keys])


def test_rows_are_those_of_the_condition_in_order_with_their_labels(lake: Lake) -> None:
    matrix, rows = lake.vectors(
        1, "resid_post", "run-00", where="correct and step is not null", join=["correct", "step", "token as word"]
    )
    keys = [(sequence, position) for sequence in (0, 2, 4) for position in range(N_PROMPT, LENGTH)]
    assert rows.select("sequence_id", "position").rows() == keys
    assert rows["correct"].all() and rows["step"].to_list() == [position - N_PROMPT for _, position in keys]
    assert rows["word"].to_list() == [f"t{position}" for _, position in keys]
    assert np.array_equal(matrix, expected(0, 1, rows))


def test_last_generated_and_negative_layers(lake: Lake) -> None:
    last = lake.vectors(-1, "resid_post", "run-00", where="last", join=["correct"])
    assert last.rows["position"].unique().to_list() == [LENGTH - 1] and len(last) == N_SEQUENCES
    assert np.array_equal(last.matrix, expected(0, N_LAYERS - 1, last.rows))
    assert np.array_equal(last.matrix, lake.vectors(N_LAYERS - 1, "resid_post", "run-00", where="last").matrix)
    assert len(lake.vectors(1, "resid_post", "run-00", where="generated")) == N_SEQUENCES * N_GENERATED
    batches = [matrix for _, matrix in lake.vectors(-3, "resid_post", "run-00")]
    assert sum(map(len, batches)) == N_SEQUENCES * LENGTH
    assert "vectors of 5 x float32" in repr(last)


def test_several_runs_keep_their_names_and_tokens_without_vectors_are_left_out(lake: Lake) -> None:
    both = lake.vectors(-1, "resid_post", where="sequence_id = 3", join=["is_prompt"])
    counts = both.rows.group_by("run_id").len().sort("run_id").rows()
    assert counts == [("run-00", LENGTH), ("run-01", N_GENERATED)]
    for run in (0, 1):
        of_run = (both.rows["run_id"] == f"run-0{run}").to_numpy()
        assert np.array_equal(both.matrix[of_run], expected(run, N_LAYERS - 1, both.rows.filter(of_run)))


@pytest.mark.parametrize(
    ("where", "error", "says"),
    [
        ("sequence_id > 99", NotFoundError, "No token meets"),
        ("corect", NotFoundError, "correct"),
        ("true) union select 1, 2, 3 --", UsageError, "parse"),
        ("(select count(*) from read_csv('/etc/passwd')) > 0", UsageError, "."),
        ("is_prompt", NotFoundError, "None of the 18 chosen tokens has a vector"),
    ],
)
def test_conditions_that_cannot_be(lake: Lake, where: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        lake.vectors(1, "resid_post", "run-01", where=where)


@pytest.mark.parametrize("layer", [-5, 0])
def test_layers_that_do_not_exist(lake: Lake, layer: int) -> None:
    with pytest.raises(NotFoundError, match="layer"):
        lake.vectors(layer, "resid_post", "run-00", where="last")


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "parquet"])
def test_export_of_a_selection_has_labels_beside_the_matrix(lake: Lake, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"chosen.{suffix}"
    done = export_vectors(
        lake, "run-00", layer=-1, site="resid_post", form=suffix, target=target, where="last", join=["correct"]
    )
    rows = pl.read_parquet(target if done.index is None else done.index)
    if suffix == "npy":
        matrix = np.load(target)
    elif suffix == "safetensors":
        matrix = load_file(target)[f"resid_post.{N_LAYERS - 1}"]
    else:
        matrix = np.stack(rows["vector"].to_list())
    assert done.rows == N_SEQUENCES and np.array_equal(matrix, expected(0, N_LAYERS - 1, rows))
    assert rows["correct"].to_list() == [sequence % 2 == 0 for sequence in rows["sequence_id"]]
