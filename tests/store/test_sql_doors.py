"""SQL over a lake only reads: a statement list made from DuckDB's own catalogue, and the two walls one by one."""

import re
import shutil
from pathlib import Path, PurePath

import duckdb
import numpy as np
import pytest

from tracelake.lake.errors import ConfigError, LakeError, UsageError
from tracelake.lake.lake import Lake
from tracelake.lake.sql import duck
from tracelake.lake.sql import functions as sql_functions
from tracelake.lake.sql.statement import Statement, reading_statement
from tracelake.queries.saved_query import find, one_select

# Looked at and left out: files, settings, logs, sequences, SQL from text, waiting, the machine, and the parts of
# DuckDB that nobody calls by name. A function of a later DuckDB is in neither list, and the test says so.
REFUSED_FAMILIES = re.compile(
    r"(icu_)?collate_\w+|__internal_\w+|pg_(?!typeof|size_pretty|timezone_names)\w+|has_\w+_privilege|inet_\w+|"
    r"\w+_description|read_\w+|parquet_\w+|(de)?register_external_\w+|(create|destroy)_external_\w+|"
    r"duckdb_(?!columns|constraints|databases|functions|keywords|schemas|tables|types|views)\w+|"
    r"pragma_(?!collations|table_info|version)\w+|(en|dis)able_\w+"
)
REFUSED = set(
    """
    assert_true current_query current_query_id current_connection_id current_transaction_id txid_current
    current_setting currval nextval setval setseed write_log sleep_ms getvariable get_block_size
    json_execute_serialized_sql json_serialize_plan json_deserialize_sql parse_duckdb_log_message index_key
    in_search_path map_to_pg_oid format_pg_type remap_struct vector_type arrow_scan arrow_scan_dumb checkpoint
    force_checkpoint glob histogram_values pandas_scan python_arrow_scan python_map_function query query_table
    seq_scan sniff_csv summary test_all_types test_vector_types truncate_duckdb_logs which_secret
    """.split()
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = Lake.create(tmp_path_factory.mktemp("doors") / "lake")
    with lake.start_run("a-run", {}) as run:
        with run.segment(0, (0, 1)) as segment:
            keys = {"sequence_id": [0, 0], "position": np.arange(2, dtype=np.int32), "stack": "decoder"}
            segment.append("sequences", {"sequence_id": [0], "prompt": ["p"]})
            segment.append("token_steps", keys)
        run.finish()
    return lake


@pytest.fixture(scope="module")
def locked(lake):
    with lake.connect(locked=True) as connection:
        yield connection


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a folder with its inode, time and bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def catalogue(*kinds: str) -> set[str]:
    with duckdb.connect(config=duck.limits()) as bare:
        query = "select distinct function_name from duckdb_functions() where function_type = any($1)"
        return {name for (name,) in bare.execute(query, [list(kinds)]).fetchall()}


def test_every_function_of_this_duckdb_was_looked_at():
    known = catalogue("scalar", "macro", "aggregate", "window", "table", "table_macro")
    allowed = sql_functions.FUNCTIONS | sql_functions.TABLES
    unseen = {name for name in known - allowed - REFUSED if not REFUSED_FAMILIES.fullmatch(name)}
    assert unseen == set(), "new functions: allow them in lake/sql/functions.py or name them here"
    assert allowed & REFUSED == set()
    assert {name for name in allowed if REFUSED_FAMILIES.fullmatch(name)} == set()
    assert allowed <= known, "functions that DuckDB no longer has"


def writers(target: Path) -> list[str]:
    """Every kind of statement that this DuckDB has, and things that write, by themselves and inside a SELECT."""
    inner = [
        f"copy (select 1) to '{target}/evil.csv'",
        f"copy (select 1) to '{target}/evil.parquet' (use_tmp_file false)",
        f"copy token_steps to '{target}/evil' (partition_by (run_id))",
        "insert into runs (run_id) values ('x') returning *",
        "update runs set tag = 'x' returning *",
        "delete from runs returning *",
        "merge into runs using (select 1 a) on false when not matched then insert (run_id) values ('x') returning *",
        "truncate runs",
        "create table t as select 1",
        "create or replace view token_steps as select 1",
        "drop table runs",
        f"attach '{target}/evil.db' as evil",
        f"export database '{target}/evil'",
        "set memory_limit = '1TB'",
        "call enable_logging()",
        "pragma enable_profiling",
        "explain analyze select 1",
        "load json",
    ]
    nestings = [
        "{}",
        "with x as ({}) select * from x",
        "with x as materialized ({}) select * from x",
        "with recursive x as (({}) union all select * from x) select * from x",
        "select * from ({})",
        "select ({})",
        "select exists ({})",
        "select * from runs where run_id in ({})",
        "with y as (with x as ({}) select * from x) select (select max(1) from y)",
        "select 1 union all ({})",
        "describe {}",
        "summarize {}",
        "explain {}",
        "explain analyze {}",
        "prepare p as {}",
        "create table c as ({})",
        "from query($$ {} $$)",
        "select list_transform([1], lambda x: (with q as ({}) select 1 from q))",
        "from json_execute_serialized_sql(json_serialize_sql($$ {} $$))",
        "select 1; {}",
    ]
    statements = [nesting.format(text) for text in inner for nesting in nestings]
    folder = f"'{target}/evil.csv'"
    for name in sorted(catalogue("table", "table_macro", "pragma")):
        statements += [f"select * from {name}()", f"select * from {name}({folder})", f"call {name}({folder})"]
        statements += [f"pragma {name}", f"with x as (from {name}({folder})) from x"]
    for name in sorted(REFUSED | {"getenv", "read_text"}):
        statements += [f"select {name}()", f"select {name}({folder})", f"select {folder}.{name}()"]
    return [
        *statements,
        "update extensions",
        "vacuum",
        "checkpoint",
        "begin",
        "use memory",
        "analyze",
        "install httpfs",
    ]


# What is in the catalogue and reads the catalogue: it may answer, but only with rows.
def test_whatever_the_statement_nothing_changes_and_every_error_is_ours(lake, locked, record_property):
    before, answered = state(lake.path), []
    statements = writers(lake.path / "data")
    record_property("statements", len(statements))
    for statement in statements:
        try:
            locked.arrow(statement)
            answered.append(statement)
        except LakeError as error:
            assert "Traceback" not in str(error), statement
    assert state(lake.path) == before
    pattern = r"(?:select \* |with x as \()?(?:from|pragma|call) (\w+)"
    names = {match[1] if (match := re.match(pattern, text)) else text for text in answered}
    assert names <= sql_functions.TABLES, sorted(names)
    assert len(names) == len(answered) and names  # one way to call each: `select * from name()`


# The second wall: let everything through the first one, and DuckDB still cannot write.
def test_without_the_first_wall_nothing_is_written_either(lake, monkeypatch):
    with lake.connect(locked=True) as connection:
        connection.arrow("select count(*) from token_steps")  # its files are known now
        monkeypatch.setattr(
            duck, "reading_statement", lambda _, text: Statement(text, frozenset(), frozenset(), False, False)
        )
        target = lake.path / "data"
        committed = next(target.rglob("*.parquet")).relative_to(lake.path)
        before = state(lake.path)
        refused = 0
        statements = [text for text in writers(target) if not re.search(r"sleep|explain", text)]
        statements += [
            f"copy (select 1) to 'lake:///{committed}' (use_tmp_file false)",
            "copy (select 1) to 'lake:///data/new.parquet' (use_tmp_file false)",
            "copy (select 1) to 'lake:///data/new.parquet'",
            f"copy (select 1) to '{lake.path / committed}' (use_tmp_file false)",
            f"with x as (copy (select 1) to '{lake.path / committed}' (use_tmp_file false)) from x",
            f"attach '{lake.path / committed}'",
            f"copy (select 1) to '{target}/../lake.json' (format csv, use_tmp_file false)",
        ]
        for statement in statements:
            try:
                connection.execute(statement).fetchall()
            except (LakeError, duckdb.Error):
                refused += 1
        assert state(lake.path) == before
        assert refused > len(statements) / 2


def test_a_wall_that_allows_a_path_would_not_hold(tmp_path):
    """Why the files come through a file system of their own: DuckDB writes to what it may read by path or folder."""
    path = tmp_path / "committed.csv"
    for setting in (f"allowed_paths = ['{path}']", f"allowed_directories = ['{tmp_path}']"):
        path.write_text("before")
        with duckdb.connect() as connection:
            connection.execute(f"SET {setting}; SET enable_external_access = false; SET lock_configuration = true")
            connection.execute(f"copy (select 1) to '{path}' (use_tmp_file false)")
        assert path.read_text() != "before"


READABLE = """
    with recursive r(n) as (select 1 union all select n + 1 from r where n < 5) select * from r
    select * from (select 1 as a) union all by name select 2 as a order by 1 limit 50% offset 0
    select distinct on (a) a, b from (values (1, 2), (1, 3)) t(a, b) order by a limit 5
    select case when 1 > 2 then 'x' end, '1'::int, try_cast('a' as int), 1 between 0 and 2, 1 in (1, 2), not true
    select [1, 2, 3][1], [x + 1 for x in [1, 2] if x > 1], {'a': 1}.a, map {'a': 1}, 'a' like 'b', 'A' ilike 'a', -1
    select '{"a": 1}'::json->'$.a', '{"a": 1}'::json->>'$.a', list_transform([1], lambda x: x + 1), 2 ** 3, 'x' || 'y'
    select 1 = any([1, 2]), 1 = all(select 1), unnest([1]), position('a' in 'ba'), trim(both 'x' from 'xyx'), (1, 2)
    select sum(a) over (partition by b order by a rows between 1 preceding and current row), lag(a) over w
        from (values (1, 2)) t(a, b) window w as (order by a)
    select count(*) filter (where position > 0), string_agg(token, '' order by position) from token_steps group by all
    select a.run_id from token_steps a left join sequences b using (run_id) asof join runs r on a.position >= r.n_tokens
    select x, y, count(*) from (values (1, 2)) t(x, y) group by grouping sets ((x), (y), rollup (x, y))
    select * from (pivot token_steps on position in (0, 1) using count(*) group by run_id)
    select * from (unpivot (select 1 as a, 2 as b) on a, b into name n value v)
    select * from token_steps using sample 5
    select * exclude (run_id, position), columns('pos.*') from token_steps
    select extract(year from date '2020-01-01'), timestamp '2020-01-01' at time zone 'UTC', interval 1 day
    select * from range(5) with ordinality
    select table_name from information_schema.tables
    select count(*) from duckdb_columns()
    from pragma_table_info('token_steps')
    from json_each('{"a": 1}')
    show all tables
    describe select 1
    summarize select 1
    from "token_steps"
    with "a.b" as (select 1) from "a.b"
    select x'ab', 1e5, 100000000000000000000, true, null, 'é', $$;$$
    select cast(1 as decimal(10, 2)), cast([1] as int[1]), cast(null as struct(x int, y varchar[]))
"""


def test_reading_of_every_kind_goes_on(locked):
    for text in re.split(r"\n    (?! )", READABLE.strip("\n")):
        assert locked.arrow(text.strip()).num_columns, text


def test_what_cannot_be_an_arrow_table_or_is_nested_too_deeply_is_an_error_of_ours(locked):
    for text in ("select " + "(" * 3000 + "1" + ")" * 3000, "select 1" + " + 1" * 5000, "select '\0'", "\0", "\ud800"):
        try:
            locked.arrow(text)
        except LakeError as error:
            assert str(error)
    # Every type that DuckDB has, as a value and as a null: rows or an error of ours.
    with duckdb.connect(config=duck.limits()) as bare:
        types = [(c[0], str(c[1])) for c in bare.execute("FROM test_all_types()").description]
        values = {
            name: [row[0] for row in bare.execute(f'select "{name}"::varchar FROM test_all_types()').fetchall()]
            for name, _ in types
        }
    for name, kind in types:
        for value in values[name]:
            text = "null" if value is None else duck.views.literal(value)
            try:
                locked.arrow(f"select try_cast({text} as {kind.replace('STRUCT(', 'struct(')}) as x")
            except LakeError as error:
                assert "Traceback" not in str(error)


def test_saved_queries_and_parameters_pass_the_same_wall(lake, tmp_path):
    copy = Path(shutil.copytree(lake.path, tmp_path / "lake"))
    (copy / "queries").mkdir()
    for number, text in enumerate(writers(copy / "data")[:60] + ["update extensions"]):
        name = f"q{number}"
        (copy / "queries" / f"{name}.sql").write_text(f"-- A query.\n-- title: {text[:20]}\n{text}\n")
        with pytest.raises(ConfigError, match=f"{name}.sql"):
            find(name, Lake(copy))
    with lake.connect(locked=True) as connection:
        hostile = "'); copy (select 1) to 'x.csv'; --"
        assert connection.sql("select $x as x", {"x": hostile})["x"][0] == hostile
    with duckdb.connect() as parser, pytest.raises(ConfigError, match="COPY"):
        one_select(parser, "with x as (copy (select 1) to 'x.csv') from x", PurePath("x.sql"))


def test_the_tables_of_a_statement_are_found(locked):
    def tables(text):
        return set(reading_statement(locked.duckdb, text).tables)

    assert tables(
        'with a as (from Token_Steps) select (select max(n_tokens) from "runs") from a join sequences on 1=1'
    ) == {
        "a",
        "token_steps",
        "runs",
        "sequences",
    }
    assert tables("describe token_steps") == tables("show token_steps") == {"token_steps"}
    assert tables("show tables") == tables("select 'from token_steps'") == set()
    for text in ("from 'x.parquet'", "from '/etc/passwd'", "from 'lake:///data/x.parquet'", "from 's3://x/y.csv'"):
        with pytest.raises(UsageError, match="no table of the lake"):
            tables(text)


def test_a_condition_typed_into_the_dashboard_passes_the_same_wall(lake, locked):
    """`Only sequences where`: every statement as a condition, and as what comes behind one."""
    pytest.importorskip("streamlit", reason="needs the extra: pip install 'tracelake[dashboard]'")
    from tracelake.queries.dashboard.views.run_view import CHOSEN_SEQUENCES

    before, answered = state(lake.path), 0
    for statement in writers(lake.path / "data")[::3]:
        for condition in (
            f"({statement})",
            f"exists ({statement})",
            f"true); {statement} --",
            f"true) union ({statement})",
        ):
            try:
                locked.sql(CHOSEN_SEQUENCES.format(condition=condition), {"run": "a-run"})
                answered += 1
            except LakeError as error:
                assert "Traceback" not in str(error), condition
    assert state(lake.path) == before
    assert answered < 400  # a few table functions answer, with rows
    sound = locked.sql(CHOSEN_SEQUENCES.format(condition="prompt = 'p' -- only these"), {"run": "a-run"})
    assert sound["sequence_id"].to_list() == [0]
