"""Writing: what goes in comes out of DuckDB and polars alike; wrong columns are refused; spills stay sorted."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracelake.lake.errors import UsageError
from tracelake.lake.lake import Lake
from tracelake.lake.schema import TABLES, stored_tables
from tracelake.lake.vectors import STORED, check_vectors, decode_column, to_binary, to_float32

SCALARS = [t.name for t in stored_tables() if not t.vector and not t.partitions]
VALUES = {
    pa.string(): st.text(max_size=8).filter(lambda s: "\0" not in s),
    pa.int16(): st.integers(-(2**15), 2**15 - 1),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.timestamp("ms", tz="UTC"): st.integers(0, 4_000_000_000_000).map(
        lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    ),
    pa.list_(pa.int32()): st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    pa.list_(pa.float32()): st.lists(st.floats(width=32), max_size=3),
    pa.list_(pa.float64()): st.lists(st.floats(), max_size=3),
    pa.list_(pa.int64()): st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    pa.list_(pa.string()): st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=3),
}


PLAIN = {
    pa.string(): "a", pa.float32(): 0.5, pa.float64(): 0.1, pa.bool_(): True,
    pa.timestamp("ms", tz="UTC"): datetime(2026, 11, 26, tzinfo=UTC), pa.list_(pa.int32()): [1, 2],
    pa.list_(pa.float32()): [0.5], pa.list_(pa.float64()): [0.1, -1.0], pa.list_(pa.int64()): [2**40, -1],
    pa.list_(pa.string()): ["a", ""],
}  # fmt: skip


@st.composite
def some_rows(draw, table):
    """Rows with distinct keys, in any order, with nulls where they are allowed."""
    key = [name for name in table.key if name != "run_id"]

    def value(column):
        values = VALUES[column.type]
        if column.name in key and pa.types.is_integer(column.type):
            values = st.integers(0, 5)
        return values if column.required else st.none() | values

    row = st.fixed_dictionaries({c.name: value(c) for c in table.columns if c.name != "run_id"})
    return draw(st.lists(row, min_size=1, max_size=6, unique_by=lambda r: tuple(map(repr, (r[k] for k in key)))))


def same(first, second):
    """Equal, with NaN equal to NaN and bits otherwise."""
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first):
        return math.isnan(second)
    return first == second


def in_key_order(rows, key):
    return sorted(rows, key=lambda r: tuple((r[k] is not None, r[k] if r[k] is not None else 0) for k in key))


DRAWN = st.sampled_from(SCALARS).flatmap(lambda name: st.tuples(st.just(name), some_rows(TABLES[name])))


@settings(max_examples=2 * len(SCALARS), deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=DRAWN)
def test_round_trip_of_every_scalar_table(tmp_path_factory, drawn):
    round_trip(tmp_path_factory, *drawn)


@pytest.mark.parametrize("name", SCALARS)
def test_no_table_is_left_out(tmp_path_factory, name):
    row = {c.name: 1 if pa.types.is_integer(c.type) else PLAIN[c.type] for c in TABLES[name].columns}
    round_trip(tmp_path_factory, name, [{c: value for c, value in row.items() if c != "run_id"}])


def round_trip(tmp_path_factory, name, rows):
    table = TABLES[name]
    lake = Lake.create(tmp_path_factory.mktemp("trip") / "lake")
    with lake.start_run("trip", {}) as run, run.segment(0, (0, 1)) as segment:
        cut = len(rows) // 2
        for piece in (rows[:cut], rows[cut:]):
            segment.append(name, {c: [row[c] for row in piece] for c in table.names if c != "run_id"})
    key = [k for k in table.key if k != "run_id"]
    expected = [{"run_id": "trip", **row} for row in in_key_order(rows, key)]
    with lake.connect(locked=True) as connection:
        duck = connection.arrow(f"from {name}")
        frame = connection.sql(f"from {name}")
        assert duck.schema.names == table.names
    for found in (duck.to_pylist(), lake.scan(name).collect().to_dicts(), frame.to_dicts()):
        assert len(found) == len(expected)
        for got, wanted in zip(found, expected, strict=True):
            assert all(same(got[c], wanted[c]) for c in table.names), (got, wanted)
    assert lake.scan(name).collect_schema() == pl.from_arrow(table.schema.empty_table()).schema
    # Numbers made up at random break the rules that real ones keep (tests/test_lake_invariants.py).
    assert not [problem for problem in lake.verify("deep").problems if "rows break" not in problem.message]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    dtype=st.sampled_from(sorted(STORED)),
    dim=st.integers(1, 5),
    n_rows=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip_of_every_vector_format(tmp_path_factory, dtype, dim, n_rows, seed):
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 256, (n_rows, dim * STORED[dtype].itemsize), np.uint8).view(STORED[dtype])  # any bits
    scale = rng.random(n_rows, np.float32) if dtype == "int8" else None
    position = rng.permutation(n_rows).astype(np.int32)
    lake = Lake.create(tmp_path_factory.mktemp("vectors") / "lake")
    columns = {"sequence_id": 0, "position": position, "stack": "decoder"} | (
        {"scale": scale} if dtype == "int8" else {}
    )
    with lake.start_run("trip", {}) as run, run.segment(0, (0, 1)) as segment:
        segment.append_vectors("activations", layer=1, site="resid_post", columns=columns, vectors=stored, dtype=dtype)
        if dtype != "int8":
            columns = {"sequence_id": 0, "position": position, "embedder": "e", "scope": "completion"}
            segment.append_vectors("step_embeddings", columns=columns, vectors=stored, dtype=dtype)
    order = np.argsort(position)
    exact = to_float32(stored, dtype, scale)[order]
    with np.errstate(invalid="ignore"):
        duck = np.array(lake.sql("select vector from activations")["vector"].to_list(), np.float32)
    assert np.array_equal(duck, exact, equal_nan=True)
    assert lake.scan("activations").collect()["vector"].to_list() == [row.tobytes() for row in stored[order]]
    ((keys, raw),) = lake.vectors(1, "resid_post", raw=True)
    assert np.array_equal(raw.view(np.uint8), stored[order].view(np.uint8))
    assert keys["position"].to_pylist() == list(range(n_rows)) and "vector" not in keys.column_names
    ((_, values),) = lake.vectors(1, "resid_post")
    assert values.dtype == np.float32 and np.array_equal(values, exact, equal_nan=True)
    if dtype != "int8":
        embedded = np.array(lake.sql("select vector from step_embeddings")["vector"].to_list(), np.float32)
        assert np.array_equal(embedded, exact, equal_nan=True)


def test_bfloat16_and_float16_are_exact():
    halves = np.arange(2**16, dtype=np.uint16)
    wide = to_float32(halves[None], "bfloat16")[0]
    assert np.array_equal(wide.view(np.uint32), halves.astype(np.uint32) << 16)
    values = to_float32(halves.view(np.float16)[None], "float16")[0]
    assert np.array_equal(values.astype(np.float16).view(np.uint16)[~np.isnan(values)], halves[~np.isnan(values)])


def test_decoding_mixed_batches_keeps_rows_in_place():
    a = np.arange(6, dtype=np.float16).reshape(2, 3)
    b = np.arange(4, dtype=np.float32).reshape(1, 4)
    c = np.array([[1, -2]], np.int8)
    vector = [to_binary(a)[0].as_py(), to_binary(b)[0].as_py(), None, to_binary(c)[0].as_py(), to_binary(a)[1].as_py()]
    decoded = decode_column(
        pa.chunked_array([pa.array(vector, pa.binary())]),
        pa.chunked_array([["float16", "float32", "float16", "int8", "float16"]]),
        pa.chunked_array([pa.array([None, None, None, 0.5, None], pa.float32())]),
    )
    assert decoded.to_pylist() == [[0, 1, 2], [0, 1, 2, 3], None, [0.5, -1.0], [3, 4, 5]]


def test_float32_is_decoded_without_a_copy():
    stored = np.arange(8, dtype=np.float32).reshape(2, 4)
    column = to_binary(stored).cast(pa.binary())
    lists = decode_column(
        pa.chunked_array([column]), pa.chunked_array([["float32"] * 2]), pa.chunked_array([pa.nulls(2, pa.float32())])
    )
    assert lists.values.buffers()[1].address == column.buffers()[2].address


@pytest.fixture
def run(tmp_path):
    with Lake.create(tmp_path / "lake").start_run("a-run", {}) as run:
        yield run


KEY = {"sequence_id": np.arange(2), "position": 0, "stack": "decoder"}


@pytest.mark.parametrize(
    ("table", "columns", "words"),
    [
        ("token_step", KEY, "no table 'token_step'.*token_steps"),
        ("runs", KEY, "no table 'runs'"),
        ("token_steps", KEY | {"run_id": "x"}, "token_steps.run_id is filled in"),
        ("token_steps", KEY | {"logprobs": [0.0, 0.0]}, "no column 'logprobs'.*'logprob'"),
        ("token_steps", {"sequence_id": np.arange(2), "position": 0}, "needs the column stack"),
        ("token_steps", KEY | {"logprob": [0.0]}, "token_steps.logprob has 1 values.*2 rows"),
        ("token_steps", KEY | {"logprob": ["a", "b"]}, "token_steps.logprob must be float"),
        ("token_steps", KEY | {"rank": np.array([0.5, 1.0])}, "token_steps.rank must be int32, not float64"),
        ("token_steps", KEY | {"rank": np.array([1, 2**40])}, "token_steps.rank must be int32"),
        ("token_steps", KEY | {"position": [0.0, 1.0]}, "position must be int32.* 0.0 is a float, and keys are whole"),
        ("token_steps", KEY | {"sequence_id": np.array([0.0, 1.0], object)}, "sequence_id must be int64.*is a float"),
        ("token_steps", KEY | {"sequence_id": np.array([0.0, 1.0])}, "sequence_id must be int64, not float64"),
        ("token_steps", KEY | {"rank": 2**40}, "token_steps.rank must be int32"),
        ("token_steps", KEY | {"rank": True}, "token_steps.rank must be int32"),
        ("token_steps", KEY | {"token": 3}, "token_steps.token must be string"),
        ("token_steps", KEY | {"is_prompt": [1, 0]}, "token_steps.is_prompt must be bool"),
        ("token_steps", KEY | {"topk_ids": np.ones((2, 3))}, "token_steps.topk_ids must be list"),
        ("token_steps", KEY | {"stack": [None, "decoder"]}, "token_steps.stack must not be null: 1 of 2"),
        ("token_steps", KEY | {"stack": None}, "token_steps.stack must not be null"),
        ("activations", KEY, "use append_vectors"),
    ],
)
def test_wrong_columns_are_named(run, table, columns, words):
    with pytest.raises(UsageError, match=words), run.segment(0, (0, 1)) as segment:
        segment.append(table, columns)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"table": "token_steps"}, "use append"),
        ({"dtype": "float64"}, "dtype 'float64' is unknown"),
        ({"dtype": "float16"}, "needs numpy float16, not float32"),
        ({"dtype": "bfloat16"}, "uint16 bit patterns"),
        ({"vectors": np.ones(2, np.float32)}, "must be a matrix"),
        ({"layer": None}, "needs layer"),
        ({"layer": -1}, "layer=-1"),
        ({"site": "../x"}, "cannot be a site"),
        ({"table": "step_embeddings"}, "has no layer"),
        ({"columns": KEY | {"dim": 4}}, "dim is filled in"),
        ({"columns": KEY | {"scale": 1.0}}, "scale must be given for int8"),
        ({"dtype": "int8", "vectors": np.ones((2, 4), np.int8)}, "scale must be given for int8"),
    ],
)
def test_wrong_vectors_are_named(run, changes, words):
    call = {"table": "activations", "layer": 0, "site": "z", "columns": KEY, "dtype": "float32"}
    call |= {"vectors": np.ones((2, 4), np.float32)} | changes
    with pytest.raises(UsageError, match=words), run.segment(0, (0, 1)) as segment:
        segment.append_vectors(call.pop("table"), **call)


def test_a_key_twice_in_a_segment_is_refused(run):
    with pytest.raises(UsageError, match="same key"), run.segment(0, (0, 1)) as segment:
        segment.append("token_steps", KEY)
        segment.append("token_steps", {"sequence_id": [1], "position": [0], "stack": "decoder"})


def test_what_numpy_and_arrow_give_is_taken(tmp_path):
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run("a-run", {}) as run, run.segment(0, (0, 1)) as segment:
        masked = np.ma.masked_array(np.array([1, 2], np.int32), [False, True])
        segment.append(
            "token_steps",
            {
                "sequence_id": pa.chunked_array([[0], [1]]),
                "position": np.array([0, 0], np.int64),
                "stack": pa.array(["decoder"] * 2).dictionary_encode(),
                "token": np.array(["a", None], dtype=object),
                "rank": masked,
                "logprob": np.array([0.5, np.nan], np.float16),
                "topk_ids": np.array([[1, 2], [3, 4]]),
            },
        )
        segment.append("token_steps", {"sequence_id": 2, "position": 0, "stack": "decoder"})
        segment.append(
            "token_steps", {name: np.array([], np.int64) for name in ("sequence_id", "position")} | {"stack": "x"}
        )
    names = "sequence_id, position, stack, token, rank, logprob, topk_ids"
    rows = lake.sql(f"select {names} from token_steps").rows()
    assert rows[0] == (0, 0, "decoder", "a", 1, 0.5, [1, 2])
    assert rows[1][3:5] == (None, None) and math.isnan(rows[1][5]) and rows[1][6] == [3, 4]
    assert rows[2] == (2, 0, "decoder", None, None, None, None)


def test_spills_bound_memory_and_keep_files_sorted(tmp_path):
    lake = Lake.create(tmp_path / "lake")
    limit, most = 200_000, 0
    with lake.start_run("a-run", {}) as run:
        with run.segment(0, (0, 8), buffer_bytes=limit) as segment:
            for position in range(300):  # a batch decodes step by step: rows of all sequences interleave
                columns = {"sequence_id": np.arange(8), "position": position, "stack": "decoder"}
                segment.append("token_steps", columns | {"logprob": np.full(8, position, np.float32)})
                segment.append_vectors(
                    "activations",
                    layer=0,
                    site="z",
                    columns=columns,
                    vectors=np.full((8, 64), position, np.float32),
                    dtype="float32",
                )
                most = max(most, segment.bytes_buffered)
            assert 0 < most <= limit + 4096 and segment.bytes_written > limit  # the last spill may be on its way
            assert not list(lake.path.rglob("*.parquet"))
        assert run.bytes_committed == segment.bytes_written > 600_000 and segment.bytes_buffered == 0
    assert lake.verify("deep").ok
    files = sorted((lake.path / "data").rglob("*.parquet"))
    assert len(files) > 2  # interleaved rows: each spill starts its own sorted file
    for path in files:
        rows = pq.ParquetFile(path).read(columns=["sequence_id", "position"]).to_pylist()
        keys = [(r["sequence_id"], r["position"]) for r in rows]
        assert keys == sorted(keys)
    query = "select count(*), sum(vector[1] * 64), count(distinct (sequence_id, position)) from activations"
    assert lake.sql(query).row(0) == (2400, 8 * 64 * sum(range(300)), 2400)


def test_one_long_sequence_spills_into_one_file(tmp_path):
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run("a-run", {}) as run, run.segment(0, (0, 1), buffer_bytes=50_000) as segment:
        for start in range(0, 4000, 100):
            columns = {"sequence_id": 0, "position": np.arange(start, start + 100, dtype=np.int32), "stack": "decoder"}
            segment.append_vectors(
                "activations",
                layer=0,
                site="z",
                columns=columns,
                vectors=np.ones((100, 16), np.float32),
                dtype="float32",
            )
    (path,) = (lake.path / "data").rglob("*.parquet")
    assert pq.ParquetFile(path).num_row_groups > 3 and lake.verify("deep").ok


def test_row_groups_of_vectors_are_small(tmp_path):
    lake = Lake.create(tmp_path / "lake")
    with lake.start_run("a-run", {}) as run, run.segment(0, (0, 1)) as segment:
        for layer, dim in ((0, 8), (1, 4096)):
            columns = {
                "sequence_id": 0,
                "position": np.arange(9000, dtype=np.int32)[: 9000 // dim * 8],
                "stack": "decoder",
            }
            vectors = np.zeros((len(columns["position"]), dim), np.float32)
            segment.append_vectors(
                "activations", layer=layer, site="z", columns=columns, vectors=vectors, dtype="float32"
            )
    for path in (lake.path / "data").rglob("*.parquet"):
        meta = pq.ParquetFile(path).metadata
        for group in range(meta.num_row_groups):
            vector = meta.row_group(group).column(meta.num_columns - 1)
            assert meta.row_group(group).num_rows <= 8192 and vector.total_uncompressed_size <= (16 << 20) + 65536
            assert vector.compression == "UNCOMPRESSED" and "DICTIONARY" not in " ".join(vector.encodings)


def test_a_small_slice_does_not_keep_its_array_alive():
    whole = np.ones((10, 100, 8), np.float32)
    kept = check_vectors(whole[:, -1, :], "float32", "x")
    assert kept.base is None and kept.nbytes == 10 * 8 * 4


def test_files_of_an_older_schema_stay_readable(tmp_path, monkeypatch):
    import dataclasses

    lake = Lake.create(tmp_path / "lake")
    new = TABLES["token_steps"]
    gone = {"rank", "topk_ids"}
    old = dataclasses.replace(new, columns=tuple(c for c in new.columns if c.name not in gone))
    monkeypatch.setitem(TABLES, "token_steps", old)
    with lake.start_run("old-run", {}) as run, run.segment(0, (0, 1)) as segment:
        segment.append("token_steps", KEY | {"logprob": 1.0})
    monkeypatch.setitem(TABLES, "token_steps", new)
    with lake.start_run("new-run", {}) as run, run.segment(0, (0, 1)) as segment:
        segment.append("token_steps", KEY | {"logprob": 2.0, "rank": 5, "topk_ids": [[1], [2]]})
    query = "select run_id, logprob, rank, topk_ids from token_steps where sequence_id = 1 order by run_id"
    expected = [("new-run", 2.0, 5, [2]), ("old-run", 1.0, None, None)]
    assert lake.sql(query).rows() == expected
    frame = lake.scan("token_steps").filter(pl.col("sequence_id") == 1).sort("run_id").collect()
    assert frame.select("run_id", "logprob", "rank", "topk_ids").rows() == expected
    assert lake.verify("deep").ok
