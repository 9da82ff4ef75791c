"""SQL over the lake: typed empty views, comments, decoded vectors, and what a locked connection must refuse."""

import numpy as np
import pytest

from tracelake.lake.errors import LakeError, NotFoundError, UsageError
from tracelake.lake.lake import Lake
from tracelake.lake.schema import TABLES
from tracelake.lake.sql import statement


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = Lake.create(tmp_path_factory.mktemp("sql") / "lake")
    with lake.start_run("sql-run", {"tag": 'it\'s; "quoted"'}) as run:
        with run.segment(0, (0, 2)) as segment:
            sequence, position = np.repeat(np.arange(2), 3), np.tile(np.arange(3, dtype=np.int32), 2)
            segment.append("sequences", {"sequence_id": np.arange(2), "prompt": ["a';--", "b"]})
            segment.append(
                "token_steps", {"sequence_id": sequence, "position": position, "stack": "decoder", "is_prompt": True}
            )
            columns = {"sequence_id": sequence, "position": position, "stack": "decoder"}
            for layer, dim in ((0, 4), (1, 6)):
                vectors = np.full((6, dim), layer + 0.5, np.float16)
                segment.append_vectors(
                    "activations", layer=layer, site="resid_post", columns=columns, vectors=vectors, dtype="float16"
                )
        run.finish()
    (lake.path / "secret.csv").write_text("a\n1\n")
    (lake.path.parent / "outside.parquet").write_bytes(next((lake.path / "data").rglob("*.parquet")).read_bytes())
    ((lake.path / "data") / "way_out").symlink_to(lake.path.parent)
    return lake


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return Lake.create(tmp_path_factory.mktemp("empty") / "lake")


@pytest.fixture(scope="module")
def comments(empty):
    """The comments of every table's columns, by DuckDB's own list of them, for which every view is made."""
    query = "select table_name, comment from duckdb_columns() order by table_name, column_index"
    listed = {}
    with empty.connect(locked=True) as connection:
        for row in connection.arrow(query).to_pylist():
            listed.setdefault(row["table_name"], []).append(row["comment"])
    return listed


@pytest.mark.parametrize("table", TABLES)
def test_every_view_exists_typed_and_commented(empty, lake, comments, table):
    with empty.connect(locked=True) as bare, lake.connect(locked=True) as full:
        described = bare.arrow(f"describe {table}").to_pylist()
        assert described == full.arrow(f"describe {table}").to_pylist()
        assert [row["column_name"] for row in described] == TABLES[table].names
        assert bare.arrow(f"from {table}").num_rows == 0
    assert all(column.doc in comment for column, comment in zip(TABLES[table].columns, comments[table], strict=True))
    assert empty.scan(table).collect().height == 0
    assert empty.scan(table).collect_schema().names() == TABLES[table].names


@pytest.mark.parametrize(
    "query",
    [
        "select 1",
        "  -- why\n select 1 ;",
        "from token_steps",
        "with x as (select 1 as a) from x",
        "describe token_steps",
        "summarize token_steps",
        "show tables",
        "values (1)",
        "select * from (pivot token_steps on position in (0, 1, 2) using count(*))",
        "select layer, list_sum(vector) from activations order by all",
        "select count(*) from sequences join token_steps using (run_id, sequence_id)",
    ],
)
def test_locked_connection_answers_selects(lake, query):
    assert lake.sql(query).width >= 1


@pytest.mark.parametrize(
    "query",
    [
        "select 1; select 2",
        "",
        "-- nothing",
        "copy (select 1) to '{data}/x.csv'",
        "copy token_steps to '{data}/x.parquet'",
        "explain analyze copy (select 1) to '{data}/x.csv'",
        "explain select 1",
        "select * from query('copy (select 1) to ''{data}/x.csv''')",
        "select * from '{root}/secret.csv'",
        "select * from read_csv('{root}/secret.csv')",
        "select * from read_text('{root}/secret.csv')",
        "select * from read_text('/etc/hostname')",
        "select * from read_blob('/etc/hostname')",
        "select * from read_parquet('{data}/../../outside.parquet')",
        "select * from read_parquet('{data}/way_out/outside.parquet')",
        "select * from glob('{root}/*')",
        "select * from glob('/etc/*')",
        "select * from sniff_csv('/etc/passwd')",
        "attach '{root}/x.db'",
        "attach ':memory:' as m",
        "install httpfs",
        "load httpfs",
        "export database '{data}/out'",
        "import database '{data}/out'",
        "create table t as select 1",
        "create view v as select 1",
        "create secret s (type s3)",
        "create macro f() as 1",
        "drop view token_steps",
        "insert into runs (run_id) values ('x')",
        "update runs set tag = 'x'",
        "delete from runs",
        "set memory_limit = '1TB'",
        "set enable_external_access = true",
        "reset lock_configuration",
        "set variable token_steps_files = ['/etc/passwd']",
        "pragma database_list",
        "call pragma_version()",
        "select * from duckdb_secrets()",
        "select * from frame",
        "select getenv('HOME')",
        "prepare p as select 1",
        "begin",
        "vacuum",
        "checkpoint",
        "use memory",
    ],
)
def test_locked_connection_refuses(lake, query):
    frame = __import__("pyarrow").table({"a": [1]})  # a Python variable is no table
    before = sorted(lake.path.rglob("*"))
    query = query.format(root=lake.path, data=(lake.path / "data"))
    with pytest.raises(LakeError) as refused:
        lake.sql(query)
    assert "Traceback" not in str(refused.value) and frame.num_rows == 1
    assert sorted(lake.path.rglob("*")) == before


def test_a_glob_within_data_finds_nothing_outside(lake):
    # DuckDB may expand it, but what leads out through a link must not be readable.
    with pytest.raises(LakeError):
        lake.sql(f"select * from read_parquet('{lake.path}/data/way_out/*.parquet')")


@pytest.mark.parametrize(
    ("query", "kind", "words"),
    [
        ("select * from token_step", NotFoundError, "Did you mean 'token_steps'"),
        ("select possition from token_steps", NotFoundError, "position"),
        ("selct 1", UsageError, "selct"),
        ("select 'x'::int", UsageError, "convert"),
        ("select no_such_function(1)", UsageError, "no_such_function"),
    ],
)
def test_errors_say_what_is_misspelt(lake, query, kind, words):
    with pytest.raises(kind, match=words):
        lake.sql(query)


def test_parameters_are_bound_not_pasted(lake):
    assert lake.sql("select count(*) as n from sequences where prompt = ?", ["a';--"])["n"][0] == 1
    assert lake.sql("select $x as x", {"x": "'; drop view token_steps"})["x"][0] == "'; drop view token_steps"


def test_mixed_widths_decode_in_one_query(lake):
    frame = lake.sql("select layer, vector from activations order by layer, sequence_id, position")
    assert [len(v) for v in frame["vector"]] == [4] * 6 + [6] * 6
    on = "a.layer = 9 and t.position = a.position"
    joined = lake.sql(f"select t.position, a.vector from token_steps t left join activations a on {on}")
    assert joined["vector"].null_count() == joined.height


def test_other_columns_do_not_pay_for_decoding(lake, monkeypatch):
    calls = []
    monkeypatch.setattr("tracelake.lake.vectors.decode_column", lambda vector, dtype, scale: calls.append(1))
    with lake.connect() as connection:
        assert connection.execute("select count(*), sum(dim) from activations where layer = 1").fetchone() == (6, 36)
    assert not calls


def test_folders_prune_files(lake):
    with lake.connect() as connection:
        query = "explain analyze select count(*) from activations where layer = 1 and run_id = 'sql-run'"
        plan = connection.execute(query).fetchall()[0][1]
    assert "layer=0" not in plan


def test_extra_views_and_closing(lake):
    connection = lake.connect(
        extra_views=[("heights", "select count(*) as n from token_steps", "how many")], locked=True
    )
    assert connection.sql("from heights")["n"][0] == 6
    assert connection.arrow("select comment from duckdb_views() where view_name = 'heights'")["comment"][0].as_py()
    connection.close()
    connection.close()


def test_restricting_to_a_run(lake):
    with lake.connect(run="latest") as connection:
        assert connection.arrow("select distinct run_id from token_steps")["run_id"].to_pylist() == ["sql-run"]
    with pytest.raises(NotFoundError, match="sql-run"):
        lake.connect(run="sql-rum")


def test_a_lake_below_a_folder_that_looks_like_a_partition(tmp_path):
    lake = Lake.create(tmp_path / "run=other" / "layer=7" / "lake")
    with lake.start_run("plain", {}) as run, run.segment(0, (0, 1)) as segment:
        columns = {"sequence_id": [0], "position": [0], "stack": "decoder"}
        segment.append_vectors(
            "activations", layer=2, site="z", columns=columns, vectors=np.ones((1, 2), np.float32), dtype="float32"
        )
    assert lake.sql("select run_id, layer, site, vector from activations").rows() == [("plain", 2, "z", [1.0, 1.0])]


def test_a_query_that_needs_more_memory_than_allowed_says_so(lake, tmp_path, monkeypatch):
    from tracelake.lake.sql import duck

    bounds = duck.limits() | {"memory_limit": "20MB", "threads": "1", "temp_directory": str(tmp_path / "spill")}
    monkeypatch.setattr(duck, "limits", lambda: bounds)
    assert lake.sql("select count(*) as n from token_steps")["n"][0] == 6
    with pytest.raises(LakeError, match="needs more memory"):
        rows = "select md5(range::varchar) as x from range(1000000)"
        lake.sql(f"select max(l) from (select lag(x) over (order by hash(x)) as l from ({rows}))")


def test_statements_are_remembered_up_to_a_bound(lake, monkeypatch):
    """By their text, and only those that read; what was refused stays refused."""
    monkeypatch.setattr(statement, "_READ", {})
    monkeypatch.setattr(statement, "MOST_REMEMBERED", 5)
    with lake.connect(locked=True) as connection:
        for number in (*range(8), 7, 7):
            query = f"select {number} as n, count(*) from runs"
            assert connection.execute(query).fetchone() == (number, 1)
            assert query in statement._READ and len(statement._READ) <= 5
        long = f"select '{'x' * statement.LONGEST_REMEMBERED}'"
        connection.execute(long)
        assert long not in statement._READ
        for _ in range(2):
            with pytest.raises(UsageError, match="Exactly one SELECT"):
                connection.execute("create table t as select 1")
