"""A connection makes the tables and views that a statement names, and no statement can tell."""

from collections.abc import Iterator

import pytest
from hand_made_lake import RUN, frames, write_lake

import tracelake
from tracelake import OpenLake
from tracelake.lake.errors import NotFoundError
from tracelake.lake.schema import TABLES
from tracelake.lake.sql.duck import Connection
from tracelake.lake.tables.run_row import RunRow
from tracelake.lake.tables.runs import RUNS
from tracelake.queries.derived_views import views


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> OpenLake:
    return tracelake.open(write_lake(tmp_path_factory.mktemp("named") / "lake", frames()).path)


@pytest.fixture
def connection(lake: OpenLake) -> Iterator[Connection]:
    with lake.connect(locked=True) as connection:
        yield connection


def made(connection: Connection) -> set[str]:
    return {name for (name,) in connection.duckdb.execute("SELECT table_name FROM duckdb_tables()").fetchall()} | {
        name
        for (name,) in connection.duckdb.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    }


@pytest.mark.parametrize(
    ("query", "needed"),
    [
        ("select 1", set()),
        ("select count(*) from Token_Steps", {"token_steps"}),
        ("select count(*) from main.runs", {"runs"}),
        ("with token_counts as (from sequences) from token_counts", {"sequences"}),
        ("select (select count(*) from runs), * from (from sequences) limit 1", {"runs", "sequences"}),
        ("describe token_steps", {"token_steps"}),
        ("describe select token from token_steps", {"token_steps"}),
        ("summarize runs", {"runs"}),
        ("from generated_tokens limit 1", {"generated_tokens", "token_steps", "sequences"}),
    ],
)
def test_only_what_is_named_is_made(connection: Connection, query: str, needed: set[str]) -> None:
    connection.arrow(query)
    assert needed <= made(connection)
    assert len(made(connection)) <= len(needed) + 2  # words of a view may name a table that it does not read


@pytest.mark.parametrize(
    "query",
    [
        "show tables",
        "show all tables",
        "select * from information_schema.tables",
        "select * from duckdb_columns()",
        "select * from sqlite_master",
        "select view_name from duckdb_views() limit 1",
    ],
)
def test_who_asks_what_there_is_gets_everything(connection: Connection, query: str) -> None:
    connection.arrow(query)
    assert made(connection) == set(TABLES) | set(views())


def test_after_a_list_of_tables_their_rows_are_there(connection: Connection) -> None:
    connection.arrow("show tables")
    assert connection.sql("select count(*) from token_steps").item() == frames()["token_steps"].height
    assert connection.sql("select count(*) from risk_scores").item() > 0
    both = "select (select count(*) from duckdb_views()) as n, count(*) as m from sequences"
    assert connection.sql(both)["m"].item() == frames()["sequences"].height


def test_descriptions_are_there_whenever_they_are_asked_for(lake: OpenLake) -> None:
    described = lake.arrow("describe token_steps").to_pylist()
    assert all(row["comment"] for row in described) and len(described) == len(TABLES["token_steps"].columns)


def test_names_are_known_before_they_are_made(connection: Connection) -> None:
    assert set(connection.names()) >= set(TABLES) | set(views())
    with pytest.raises(NotFoundError, match="Did you mean 'risk_scores'"):
        connection.arrow("from risk_score")


def test_one_snapshot_for_what_is_made_later(lake: OpenLake, connection: Connection) -> None:
    before = connection.arrow("select count(*) as n from runs").to_pylist()
    with lake.start_run("later", {"plan": {"segments": [[0, 1]]}}) as run:
        with run.segment(0, (0, 1)) as segment:
            segment.append("sequences", {"sequence_id": [0], "prompt": ["p"]})
        run.finish()
    try:
        assert connection.arrow("select count(*) as n from runs").to_pylist() == before
        assert connection.arrow("select count(*) as n from sequences where run_id = 'later'")["n"].to_pylist() == [0]
        assert lake.sql("select count(*) from sequences where run_id = 'later'").item() == 1
    finally:
        lake.remove("later", dry_run=False, now=True)


def test_an_open_connection_does_what_duckdb_does(lake: OpenLake) -> None:
    with lake.connect() as connection:
        connection.execute("create table mine as select count(*) as n from sequences; insert into mine values (1)")
        assert connection.sql("from mine").height == 2
        assert connection.sql(f"select count(*) from risk_scores where run_id = '{RUN}'").item() > 0


def test_rows_of_runs_have_the_columns_of_the_table() -> None:
    assert tuple(RunRow.__annotations__) == tuple(RUNS.names)
