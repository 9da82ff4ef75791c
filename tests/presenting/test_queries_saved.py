"""Saved queries: finding, headers, parameters, one SELECT; every one runs on full, partly empty and empty lakes."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

import polars as pl
import pytest
from hand_made_lake import OTHER, RUN, connection_to, frames, without

from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, NotFoundError, UsageError
from tracelake.lake.schema import TABLES
from tracelake.lake.sql.duck import Connection
from tracelake.queries.derived_views import view_definitions
from tracelake.queries.header import parse_header
from tracelake.queries.saved_query import SavedQuery, find, saved_queries

QUERIES = saved_queries()
KEPT = ("token_steps", "layer_summaries", "head_summaries", "attention_edges", "step_embeddings", "sae_features")
NEEDS_DAMAGE = "nan_report"
"""The one query that has no rows on a healthy lake."""


@pytest.fixture(scope="module")
def full() -> Iterator[Connection]:
    with connection_to(frames()) as connection:
        yield connection


@pytest.fixture(scope="module")
def empty() -> Iterator[Connection]:
    with connection_to(without(*TABLES)) as connection:
        yield connection


def query_file(folder: Path, name: str, text: str) -> Path:
    (folder / "queries").mkdir(exist_ok=True)
    path = folder / "queries" / f"{name}.sql"
    path.write_text(text)
    return path


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_runs_with_defaults(query: SavedQuery, full: Connection) -> None:
    rows = query.run(full)
    assert rows.height > 0 or query.name == NEEDS_DAMAGE
    assert set(query.header.fields) <= set(rows.columns)


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_no_rows_and_no_error_on_an_empty_lake(query: SavedQuery, empty: Connection) -> None:
    assert query.run(empty).height == 0


@pytest.mark.parametrize("table", KEPT)
def test_runs_where_a_kept_table_is_empty(table: str) -> None:
    """Every query that reads the table; for the others it is the full lake."""
    readers = [query for query in QUERIES.values() if table in tables_read(query.sql)]
    assert readers
    with connection_to(without(table)) as connection:
        for query in readers:
            query.run(connection)


def tables_read(sql: str) -> set[str]:
    """Every word of a statement and of the views it names, and so each table among them."""
    definitions = {view.name: view.sql for view in view_definitions()}
    words, unread = set(), {sql}
    while unread:
        found = set().union(*(re.findall(r"\w+", text.lower()) for text in unread))
        unread = {definitions[name] for name in found & definitions.keys() - words}
        words |= found
    return words


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_concerns_one_run_only(query: SavedQuery, full: Connection) -> None:
    assert "run" in query.parameters
    rows = query.run(full, run=OTHER)
    if "run_id" in rows.columns:
        assert set(rows["run_id"]) <= {OTHER}


def test_every_query_is_documented_and_enough_join_three_tables() -> None:
    assert len(QUERIES) >= 14
    assert all(query.summary.endswith((".", "?", ":")) for query in QUERIES.values())
    tables = [*TABLES, "answers", "generated_tokens", "next_tokens", "predictions"]
    joins = [name for name, q in QUERIES.items() if sum(q.sql.count(f" {table} AS ") for table in tables) >= 2]
    assert len(joins) >= 4


def test_types_of_values_given_as_text(full: Connection) -> None:
    query = find("surprisal_trace")
    assert query.run(full, run=RUN, sequence="3").equals(query.run(full, run=RUN, sequence=3))


@pytest.mark.parametrize("given", ["x", "1.5", "", "1e3", "99999999999999999999"])
def test_a_bad_number_is_a_usage_error_that_says_the_type(given: str, full: Connection) -> None:
    with pytest.raises(UsageError, match=r"'sequence' must be a whole number \(BIGINT\)"):
        find("surprisal_trace").run(full, sequence=given)


def test_an_unknown_parameter_says_what_exists(full: Connection) -> None:
    with pytest.raises(UsageError, match="no parameter 'sequnce'. Did you mean 'sequence'"):
        find("surprisal_trace").run(full, sequnce=1)


def test_values_are_bound_not_pasted(full: Connection) -> None:
    hostile = "x' OR 1=1; DROP TABLE sequences; --"
    assert find("run_overview").run(full, run=hostile).height == 0
    assert find("layer_norms").run(full, site=hostile).height == 0


def test_runs_are_resolved_by_the_lake(full: Connection) -> None:
    asked = []

    def resolve(text: str) -> str:
        asked.append(text)
        return OTHER

    rows = find("run_overview").run(full, resolve)
    assert asked == ["latest"] and rows["run_id"].to_list() == [OTHER]


def test_latest_is_the_newest_run_and_nothing_where_there_is_none(full: Connection, empty: Connection) -> None:
    def refuse(text: str) -> str:
        raise NotFoundError(text)

    assert find("run_overview").run(full)["run_id"].to_list() == [RUN]
    assert find("run_overview").run(empty, refuse).height == 0
    with pytest.raises(NotFoundError):
        find("run_overview").run(empty, refuse, run="demo")


def test_unknown_name_has_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'surprisal_trace'"):
        find("suprisal_trace")


def test_the_lakes_own_queries_come_first(tmp_path: Path, full: Connection) -> None:
    query_file(tmp_path, "run_overview", "-- Mine.\nSELECT 1 AS one;\n")
    query_file(tmp_path, "lengths", "-- Lengths.\n-- param least DOUBLE = 50  Least length.\nSELECT $least AS least")
    found = saved_queries(Lake(tmp_path))
    assert (found["run_overview"].source, found["layer_norms"].source) == ("lake", "tracelake")
    assert find("run_overview", Lake(tmp_path)).run(full)["one"].to_list() == [1]
    assert found["lengths"].run(full, least="2.5")["least"].to_list() == [2.5]
    with pytest.raises(UsageError, match="must be a number"):
        found["lengths"].run(full, least="nan")


def test_a_broken_query_does_not_hide_the_others(tmp_path: Path) -> None:
    query_file(tmp_path, "broken", "SELECT 1")
    assert find("run_overview", Lake(tmp_path)).name == "run_overview"
    with pytest.raises(ConfigError, match=r"broken.sql, line 1: the file must begin"):
        saved_queries(Lake(tmp_path))


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("COPY (SELECT 1) TO 'x.csv'", "Exactly one SELECT is possible.*given: COPY"),
        ("SELECT 1; SELECT 2", "given: SELECT, SELECT"),
        ("", "given: none"),
        ("SELEC 1", "cannot be parsed"),
        ("SELECT $x", r"uses \$x without"),
        ("DROP TABLE sequences", "given: DROP"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO 'x'", "given: EXPLAIN"),
    ],
)
def test_a_query_is_exactly_one_select(tmp_path: Path, sql: str, message: str) -> None:
    query_file(tmp_path, "bad", f"-- Bad.\n{sql}\n")
    with pytest.raises(ConfigError, match=message):
        find("bad", Lake(tmp_path))


def test_a_declared_parameter_must_be_used(tmp_path: Path) -> None:
    query_file(tmp_path, "idle", "-- Idle.\n-- param x TEXT = a  Never used.\nSELECT 1")
    with pytest.raises(ConfigError, match="query 'idle' declares x but does not use it"):
        find("idle", Lake(tmp_path))


def test_a_required_parameter_must_be_given(tmp_path: Path, full: Connection) -> None:
    query_file(tmp_path, "need", "-- Need.\n-- param flag BOOLEAN  Which way.\nSELECT $flag AS flag")
    query = find("need", Lake(tmp_path))
    assert query.run(full, flag="yes")["flag"].to_list() == [True]
    with pytest.raises(UsageError, match="needs the parameter 'flag'"):
        query.run(full)
    with pytest.raises(UsageError, match="true or false"):
        query.run(full, flag="maybe")


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("-- A.\n-- makr: line", 2, "unknown key 'makr'. Did you mean 'mark'"),
        ("-- A.\n-- mark: line\n-- x: a:Q", 2, "missing: y"),
        ("-- A.\n-- mark: pie\n-- x: a:Q\n-- y: b:Q", 2, "unknown mark 'pie'"),
        ("-- A.\n-- mark: line\n-- x: a\n-- y: b:Q", 3, "FIELD:TYPE"),
        ("-- A.\n-- mark: line\n-- x: mean(a):Q\n-- y: b:Q", 3, "FIELD:TYPE"),
        ("-- A.\n-- mark: line\n-- mark: bar", 3, "second time"),
        ("-- A.\n-- mark:", 2, "has no value"),
        ("-- A.\n-- mark: line\n-- x: a:Q\n-- y: b:Q\n-- scale: y cubic", 5, "unknown scale 'cubic'"),
        ("-- A.\n-- mark: line\n-- x: a:Q\n-- y: b:Q\n-- scale: color log", 5, "no encoding"),
        ("-- A.\n-- mark: line\n-- x: a:Q\n-- y: b:Q\n-- band: low", 5, "two fields"),
        ("-- A.\n-- mark: line\n-- x: a:Q\n-- y: b:Q\n-- reference: z 3", 5, "reference must be"),
        ("-- A.\n-- param x TEXT = a meaning", 2, "two spaces"),
        ("-- A.\n-- param x STRING = a  Meaning.", 2, "unknown parameter type 'STRING'"),
        ("-- A.\n-- param x TEXT = a  M.\n-- more prose", 3, "after the description"),
        ("SELECT 1", 1, "must begin with"),
    ],
)
def test_header_errors_name_file_and_line(header: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"q\.sql, line {line}: .*{message}"):
        parse_header(header + "\nSELECT 1", PurePath("q.sql"))


def test_describe_has_stable_keys() -> None:
    keys = {"name", "source", "file", "summary", "description", "parameters", "chart", "sql", "text"}
    for query in QUERIES.values():
        assert set(query.describe()) == keys
    trace = find("surprisal_trace").describe()
    assert trace["chart"] == {"mark": "line", "x": "position:Q", "y": "surprisal_bits:Q", "color": "part:N"}


def test_listing_loads_neither_altair_nor_polars() -> None:
    code = (
        "import sys; from tracelake.queries.saved_query import saved_queries; saved_queries(); "
        "from tracelake.queries.derived_views import view_definitions; view_definitions(); "
        "print([m for m in ('altair', 'polars', 'torch', 'vl_convert') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_whole_sums_are_integers(full: Connection) -> None:
    assert find("run_overview").run(full).schema["generated_tokens"] == pl.Int64
