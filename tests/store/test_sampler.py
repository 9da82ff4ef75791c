"""The shuffled loader: every row once, the same order twice and from the middle, only the rows that were asked for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from vector_lakes import SPECIAL, add_sequences, vector_lake, vector_of

from tracelake.lake.errors import ConfigError, DamageError, NotFoundError, UsageError
from tracelake.lake.lake import Lake
from tracelake.lake.shuffling.sampler import Sampler
from tracelake.lake.vectors import to_float32

RUN = ["run-00"]


def keys_of(batches, dtype: str = "float32") -> list[tuple[int, int, int]]:
    """Which tokens the rows are of, from what is in the vectors; the rest of each vector is checked too."""
    keys = []
    for batch in batches:
        for row in to_float32(batch, dtype):
            run, sequence, position = divmod(int(row[0]), 16)[0], int(row[1]), int(row[2])
            assert np.array_equal(row, vector_of(run, int(row[0]) % 16, sequence, position, len(row)))
            keys.append((run, sequence, position))
    return keys


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two runs with 6 segments of 5 sequences of 7 tokens: 210 rows each, 12 row groups together."""
    return vector_lake(tmp_path_factory.mktemp("lake") / "lake", runs=2, segments=6, sequences=5, length=7)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_row_comes_once_in_the_stored_format(tmp_path: Path, dtype: str) -> None:
    lake = vector_lake(tmp_path / "lake", runs=2, segments=3, sequences=4, length=5, dtype=dtype)
    sampler = Sampler(lake, ["run-00", "run-01"], 0, "resid_post", 16, 30, seed=3, exclude="none")
    batches = list(sampler.batches(0))
    assert sampler.rows == 2 * 12 * 5 and sampler.width == 8 and sampler.dtype == dtype
    assert [len(batch) for batch in batches] == [16] * 7 + [8] and sampler.n_batches == 8
    assert batches[0].dtype == {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[dtype]
    everything = {(run, s, p) for run in (0, 1) for s in range(12) for p in range(5)}
    keys = keys_of(batches, dtype)
    assert len(keys) == len(everything) and set(keys) == everything


def test_int8_comes_with_its_scale(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run("run-00", {"model": {}}) as run, run.segment(0, (0, 1)) as segment:
        columns = {"sequence_id": np.zeros(3, int), "position": np.arange(3), "stack": "decoder"}
        vectors = np.array([[1, -2], [3, 4], [5, 6]], np.int8)
        segment.append_vectors(
            "activations", columns=columns | {"scale": np.array([0.5, 2.0, 1.0], np.float32)},
            vectors=vectors, dtype="int8", layer=0, site="resid_post",
        )  # fmt: skip
    (batch,) = Sampler(lake, RUN, 0, "resid_post", 9, seed=0, exclude="none").batches(0)
    assert sorted(batch.tolist()) == [[0.5, -1.0], [5.0, 6.0], [6.0, 8.0]]


def test_order_is_a_function_of_seed_and_epoch_and_starts_anywhere(lake: Lake) -> None:
    def sampler(seed: int = 0) -> Sampler:
        return Sampler(lake, ["run-00", "run-01"], 0, "resid_post", 32, 64, seed=seed)

    whole = list(sampler().batches(1))
    assert all(np.array_equal(a, b) for a, b in zip(whole, sampler().batches(1), strict=True))
    for start in range(len(whole) + 1):
        rest = list(sampler().batches(1, start))
        assert len(rest) == len(whole) - start
        assert all(np.array_equal(a, b) for a, b in zip(whole[start:], rest, strict=True))
    orders = {tuple(keys_of(sampler(seed).batches(epoch))) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4 and len({frozenset(order) for order in orders}) == 1


def test_rows_are_mixed_within_windows_over_row_groups(lake: Lake) -> None:
    """A batch holds rows of most segments of its window, not the rows of one file in order."""
    sampler = Sampler(lake, RUN, 0, "resid_post", 30, 180, seed=0)
    first = keys_of([next(iter(sampler.batches(0)))])
    assert len({sequence // 5 for _, sequence, _ in first}) >= 5
    assert first != sorted(first)
    assert [window.rows for window in sampler.windows(0)] == [180]
    assert [window.rows for window in Sampler(lake, RUN, 0, "resid_post", 30, 70, seed=0).windows(0)] == [90, 90]


@pytest.mark.parametrize("exclude", ["none", "first", "special"])
@pytest.mark.parametrize("split", [None, "train", "validation"])
def test_only_rows_that_were_asked_for(lake: Lake, exclude: str, split: str | None) -> None:
    """Against the SQL of the same choice."""
    condition = {"none": "true", "first": "position > 0", "special": f"position > 0 AND token_id <> {SPECIAL}"}[exclude]
    of_split = "true" if split is None else f"split = '{split}'"
    wanted = lake.sql(
        "SELECT sequence_id, position FROM token_steps JOIN sequences USING (run_id, sequence_id) "
        f"WHERE run_id = 'run-01' AND {condition} AND {of_split}"
    )
    sampler = Sampler(lake, ["run-01"], 0, "resid_post", 16, 50, seed=0, exclude=exclude, split=split)
    keys = keys_of(sampler.batches(0))
    assert sampler.rows == wanted.height == len(keys)
    assert set(keys) == {(1, *row) for row in wanted.rows()}


def test_first_is_the_first_token_of_each_stack_of_an_encoder_decoder_model(tmp_path: Path) -> None:
    lake = vector_lake(tmp_path / "lake", length=5, model={"is_encoder_decoder": True})
    # `n_prompt_tokens` is 5: the decoder begins at position 4.
    keys = keys_of(Sampler(lake, RUN, 0, "resid_post", 64, seed=0).batches(0))
    assert {position for _, _, position in keys} == {1, 2, 3}


def test_pairs_are_of_the_same_tokens_though_row_groups_and_orders_differ(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    ids, wide = np.arange(40), 2048
    with lake.start_run("run-00", {"kind": "read", "model": {"n_layers": 2}}) as run, run.segment(0, (0, 1)) as segment:
        add_sequences(segment, 0, ids, length=100, dim=8, dtype="float32", sites=((0, "resid_pre"),))
        backwards = np.arange(4000)[::-1]
        sequence, position = backwards // 100, backwards % 100
        rows = np.stack([vector_of(0, 1, s, p, wide) for s, p in zip(sequence, position, strict=True)])
        columns = {"sequence_id": sequence, "position": position.astype(np.int32), "stack": "decoder"}
        segment.append_vectors(
            "activations", columns=columns, vectors=rows.astype(np.float16), dtype="float16", layer=1, site="mlp_out"
        )
    sampler = Sampler(lake, RUN, 0, "resid_pre", 256, 1000, seed=0, to=(-1, "mlp_out"))
    assert (sampler.width, sampler.dtype, sampler.to_width, sampler.to_dtype) == (8, "float32", wide, "float16")
    pairs = list(sampler.pairs(2))
    keys = keys_of([first for first, _ in pairs])
    assert keys == keys_of([second for _, second in pairs], "float16")
    assert set(keys) == {(0, s, p) for s in range(40) for p in range(1, 100)}
    assert all(np.array_equal(a, b) for (a, _), b in zip(pairs, sampler.batches(2), strict=True))


def test_a_run_that_grows_is_read_as_it_was(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    shape = {"length": 6, "dim": 8, "dtype": "float32", "sites": ((0, "resid_post"),)}
    with lake.start_run("run-00", {"kind": "read", "model": {}}) as run:
        with run.segment(0, (0, 1)) as segment:
            add_sequences(segment, 0, np.arange(4), **shape)
        before = Sampler(lake, RUN, 0, "resid_post", 8, seed=0)
        with run.segment(1, (1, 2)) as segment:
            add_sequences(segment, 0, np.arange(4, 8), **shape)
    assert before.rows == 20 and Sampler(lake, RUN, 0, "resid_post", 8, seed=0).rows == 40
    again = Sampler(lake, RUN, 0, "resid_post", 8, seed=0, commits=before.commits)
    assert again.commits == before.commits == {"run-00": {"w0": 0}}
    assert keys_of(again.batches(0)) == keys_of(before.batches(0))


@pytest.mark.parametrize(
    "dtype, bad", [("float32", np.nan), ("float32", -np.inf), ("float16", np.inf), ("bfloat16", np.nan)]
)
def test_vectors_that_are_not_finite_are_named(tmp_path: Path, dtype: str, bad: float) -> None:
    lake = Lake.create(tmp_path / "lake")
    vectors = np.ones((6, 4), np.float32)
    vectors[4, 3] = bad
    given = (vectors.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else vectors.astype(dtype)
    with lake.start_run("run-00", {"model": {}}) as run, run.segment(0, (0, 1)) as segment:
        columns = {"sequence_id": np.full(6, 7), "position": np.arange(6), "stack": "decoder"}
        segment.append_vectors("activations", columns=columns, vectors=given, dtype=dtype, layer=0, site="resid_post")
    with pytest.raises(
        DamageError, match=r"run-00, sequence 7, position 4 \(layer 0, site resid_post.*NaN or infinity"
    ):
        list(Sampler(lake, RUN, 0, "resid_post", 2, seed=0).batches(0))


def test_what_makes_no_matrix_is_refused_by_name(tmp_path: Path, lake: Lake) -> None:
    mixed = vector_lake(tmp_path / "lake", dim=8, sites=((0, "resid_post"), (1, "resid_post")))
    shape = {"length": 5, "dtype": "float32"}
    with mixed.start_run("run-wide", {"model": {}}) as run, run.segment(0, (0, 1)) as segment:
        add_sequences(segment, 0, np.arange(2), dim=16, sites=((0, "resid_post"),), **shape)
    with mixed.start_run("run-half", {"model": {}}) as run, run.segment(0, (0, 1)) as segment:
        add_sequences(segment, 0, np.arange(2), dim=8, length=5, dtype="float16", sites=((0, "resid_post"),))
    with mixed.start_run("run-other", {"model": {"name": "o", "weights_sha256": "f" * 64}}) as run:
        with run.segment(0, (0, 1)) as segment:
            add_sequences(segment, 0, np.arange(2), dim=8, sites=((0, "resid_post"), (1, "mlp_out")), **shape)

    def refused(error: type[Exception], match: str, runs=RUN, site="resid_post", batch=4, **more) -> None:
        with pytest.raises(error, match=match):
            Sampler(mixed, runs, 0, site, batch, **{"seed": 0} | more)

    refused(ConfigError, r"8 x float32 \(run run-00\), 16 x float32 \(run run-wide\)", ["run-00", "run-wide"])
    refused(ConfigError, r"8 x float32 .*8 x float16 \(run run-half\)", ["run-00", "run-half"])
    refused(ConfigError, r"different weights: run-00 \(m\), run-other \(o\)", ["run-00", "run-other"])
    refused(NotFoundError, r"No activations of layer 0, site 'z'.*resid_post@0, resid_post@1", site="z")
    refused(NotFoundError, r"no run|There is no run", ["run-xyz"])
    refused(NotFoundError, r"no sequence|No sequence is of the split 'test'. Splits.*train, validation", split="test")
    refused(ConfigError, "does not say which token ids are special", ["run-wide"], exclude="special")
    refused(UsageError, "exclude 'frist' is unknown. Did you mean 'first'", exclude="frist")
    refused(UsageError, "batch must be at least 1", batch=0)
    refused(UsageError, "list of at least one", runs=[])
    refused(UsageError, "list of at least one", runs="run-00")
    with pytest.raises(UsageError, match="Epoch 0, batch 99 cannot be"):
        next(Sampler(lake, RUN, 0, "resid_post", 30, seed=0).batches(0, 99))
    with pytest.raises(UsageError, match="reads one site"):
        next(Sampler(lake, RUN, 0, "resid_post", 30, seed=0).pairs(0))


def test_sites_of_different_tokens_make_no_pairs(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run("run-00", {"model": {}}) as run, run.segment(0, (0, 1)) as segment:
        add_sequences(segment, 0, np.arange(2), length=5, dim=8, dtype="float32", sites=((0, "resid_pre"),))
        columns = {"sequence_id": np.zeros(3, int), "position": np.arange(3), "stack": "decoder"}
        segment.append_vectors(
            "activations",
            columns=columns,
            vectors=np.ones((3, 8), np.float32),
            dtype="float32",
            layer=0,
            site="mlp_out",
        )
    with pytest.raises(ConfigError, match=r"resid_pre@0 and mlp_out@0 of different tokens \(10 and 3 rows"):
        Sampler(lake, RUN, 0, "resid_pre", 4, seed=0, to=(0, "mlp_out"))


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    lake = vector_lake(tmp_path / "lake")
    sampler = Sampler(lake, RUN, 0, "resid_post", 4, seed=0)
    file = next((tmp_path / "lake/data/activations").rglob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamageError, match="is not what was committed|cannot be read"):
        list(sampler.batches(0))


def test_it_loads_no_model_library() -> None:
    code = "import sys, tracelake.lake.shuffling.sampler; sys.exit('torch' in sys.modules or 'polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


LEFT = """
import gc, sys, threading
from tracelake.lake.lake import Lake
from tracelake.lake.shuffling.sampler import Sampler

gc.disable()
sampler = Sampler(Lake.open(sys.argv[1]), ["run-00"], 0, "resid_post", 16, 30, seed=0, exclude="none")
place, left, cleared, calls = sampler._place, threading.Event(), threading.Event(), []


def collect_and_place(*given):
    calls.append(1)
    if len(calls) > len(sampler.windows(0)[0].groups):  # the window that is read ahead
        left.wait(20)
        gc.collect()
        cleared.set()
    place(*given)


def leave():
    loop = {}
    loop["batches"], loop["itself"] = sampler.batches(0), loop  # only the collector of garbage can clear it away
    next(loop["batches"])


sampler._place = collect_and_place
leave()
left.set()
assert cleared.wait(20)
"""


def test_a_loop_that_is_left_is_cleared_away_by_any_thread(lake: Lake) -> None:
    # Garbage may be collected in the thread that reads ahead for a loop which nobody holds any more.
    command = [sys.executable, "-c", LEFT, str(lake.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
