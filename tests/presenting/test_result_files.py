"""Rows of a query as files and text: nothing cut, renamed without a word or like another value."""

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracelake import OpenLake
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.lake import Lake
from tracelake.lake.sql.result_columns import RenamedColumnWarning, unique_names
from tracelake.queries.results.formats import SUFFIXES, emit, file_format, render
from tracelake.queries.results.text_table import Layout, table_text
from tracelake.queries.sql_values import sql_values

LOOK_ALIKES = """
    select * from (values
        (1, 'nan'::double, '', 'plain'::varchar),
        (2, 'inf'::double, null, 'NaN'),
        (3, '-inf'::double, '·', e'two\\nlines'),
        (4, null, ' ', '\\boxed{}, "q"'),
        (5, 0.1::double, '""', e'two\\\\nlines')
    ) as t(n, number, text, other) order by n
"""
KINDS = """
    select sum(n) as total, 1.50::decimal(10, 2) as price, 170141183460469231731687303715884105727::hugeint as huge,
        'infinity'::timestamp as never, timestamp_ns '2020-01-01 00:00:00.123456789' as exact,
        timestamptz '2020-01-01 00:00:00.5+00' as utc, date '0044-03-15 (BC)' as ides, 'infinity'::date as day,
        interval '1 month 2 days 3.5 seconds' as span, '\\xAA\\x00'::blob as bytes, '101'::bit as bits,
        timetz '12:00:00+02' as zoned, {'a': 1, 'b': ['nan'::double, 2.5::decimal(5, 1)]} as nested,
        map {'k': 1} as map,
        union_value(num := 2) as tagged, 123456789012345678901234567890123456789012::bignum as big
    from range(4) t(n)
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> OpenLake:
    return OpenLake.open(Lake.create(tmp_path_factory.mktemp("empty") / "lake").path)


def test_a_file_is_whole_in_every_format(lake: OpenLake, tmp_path: Path) -> None:
    rows = lake.arrow("select i, repeat('x', 500) as long, range(20) as list from range(1234) t(i)")
    for suffix in SUFFIXES:
        emit(rows, None, tmp_path / f"rows{suffix}")
    read = {
        ".csv": pl.read_csv(tmp_path / "rows.csv"),
        ".json": pl.DataFrame(json.loads((tmp_path / "rows.json").read_text())),
        ".jsonl": pl.read_ndjson(tmp_path / "rows.jsonl"),
        ".ndjson": pl.read_ndjson(tmp_path / "rows.ndjson"),
        ".parquet": pl.read_parquet(tmp_path / "rows.parquet"),
    }
    for suffix, frame in read.items():
        assert frame.height == 1234 and frame["i"].to_list() == list(range(1234)), suffix
        assert frame["long"].str.len_chars().min() == 500, suffix
    text = (tmp_path / "rows.txt").read_text().splitlines()
    assert len(text) == 1235 and text[-1].split()[1] == "x" * 500 and text[-1].endswith("18, 19]")


def test_the_ending_decides_and_contradictions_are_refused(tmp_path: Path) -> None:
    assert file_format(tmp_path / "a.JSONL", None) == "jsonl" and file_format(tmp_path / "a", "csv") == "csv"
    for name, form, says in [("a.xlsx", None, r"\.parquet"), ("a.csv", "json", "ending"), ("a.csv", "xml", "csv")]:
        with pytest.raises(UsageError, match=says):
            file_format(tmp_path / name, form)
    with pytest.raises(NotFoundError, match="folder"):
        file_format(tmp_path / "none" / "a.csv", None)


def test_columns_of_one_name_are_renamed_everywhere(lake: OpenLake, tmp_path: Path) -> None:
    assert unique_names(["a", "b", "a", "A", "a_1"]) == ["a", "b", "a_2", "A_3", "a_1"]
    statement = "select 1 as a, 2 as a, 3 as a_1, 4 as a"
    with pytest.warns(RenamedColumnWarning, match="a -> a_2, a -> a_3"):
        rows = lake.arrow(statement)
    expected = {"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}
    with pytest.warns(RenamedColumnWarning):
        assert lake.sql(statement).to_dicts() == [expected]
    assert json.loads(render(rows, "json")) == [expected]
    assert list(csv.DictReader(io.StringIO(render(rows, "csv").decode()))) == [{k: str(v) for k, v in expected.items()}]
    emit(rows, None, tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == [expected]
    heads, values = (line.split() for line in render(rows, "table").decode().splitlines())
    assert dict(zip(heads, map(int, values), strict=True)) == expected


def test_joined_rows_stand_under_their_own_names(lake: OpenLake) -> None:
    with pytest.warns(RenamedColumnWarning):
        rows = lake.arrow("from (select 1 as k, 'l' as side) a join (select 1 as k, 'r' as side) b on a.k = b.k")
    assert rows.to_pylist() == [{"k": 1, "side": "l", "k_1": 1, "side_1": "r"}]


def test_what_looks_alike_can_be_told_apart(lake: OpenLake, tmp_path: Path) -> None:
    rows = lake.arrow(LOOK_ALIKES)
    found = json.loads(render(rows, "json"))
    assert [row["number"] for row in found] == ["NaN", "Infinity", "-Infinity", None, 0.1]
    assert [row["text"] for row in found] == ["", None, "·", " ", '""']
    assert found[2]["other"] == "two\nlines" and found[4]["other"] == "two\\nlines"
    for form in ("csv", "table"):
        for column in ("number", "text", "other"):
            # A CSV of one column writes null as empty text: an empty line would be no row.
            chosen = rows.select([column, column]).rename_columns(["a", "b"])
            texts = [render(chosen.slice(i, 1), form).decode() for i in range(rows.num_rows)]
            assert len(set(texts)) == rows.num_rows, (form, column, texts)
    emit(rows, None, tmp_path / "rows.csv")
    with duckdb.connect() as other:
        back = other.sql(f"from read_csv('{tmp_path}/rows.csv', nullstr='', allow_quoted_nulls=false)").fetchall()
    assert [row[2] for row in back] == ["", None, "·", " ", '""'] and back[2][3] == "two\nlines"
    assert [row[3] for row in csv.reader(io.StringIO(render(rows, "csv").decode()))][4] == '\\boxed{}, "q"'


def test_every_kind_of_value_has_a_form(lake: OpenLake, tmp_path: Path) -> None:
    rows = lake.arrow(KINDS)
    one = json.loads(render(rows, "json"), parse_float=Decimal)[0]
    expected = {
        "total": 6,
        "price": Decimal("1.50"),
        "huge": 2**127 - 1,
        "never": "infinity",
        "exact": "2020-01-01 00:00:00.123456789",
        "utc": "2020-01-01 00:00:00.5+00:00",
        "ides": "-0043-03-15",
        "day": "infinity",
        "span": "P1M2DT3.5S",
        "bytes": "\\xaa00",
        "bits": "101",
        "zoned": "12:00:00+02",
        "nested": {"a": 1, "b": ["NaN", Decimal("2.5")]},
        "map": {"k": 1},
        "tagged": "2",
        "big": "123456789012345678901234567890123456789012",
    }
    # A list of a double and a decimal is a list of doubles.
    assert one == expected
    flat = next(csv.DictReader(io.StringIO(render(rows, "csv").decode())))
    assert flat["price"] == "1.50" and flat["huge"] == str(2**127 - 1) and flat["span"] == "P1M2DT3.5S"
    assert json.loads(flat["map"]) == {"k": 1}
    vertical = table_text(rows, Layout(vertical=True))
    assert "P1M2DT3.5S" in vertical and "infinity" in vertical
    emit(rows, None, tmp_path / "rows.parquet")
    with duckdb.connect() as other:
        back = other.sql(f"select isinf(never), total, span, exact::varchar from '{tmp_path}/rows.parquet'").fetchall()
    assert back[0] == (True, 6, "P1M2DT3.5S", "2020-01-01 00:00:00.123456789")
    assert pd.read_parquet(tmp_path / "rows.parquet", columns=["total", "price"])["total"].dtype == "int64"


def test_polars_gets_durations_and_says_what_it_cannot_hold(lake: OpenLake) -> None:
    assert lake.sql("select interval '90 minutes' as d, null::interval as n")["d"].item().total_seconds() == 5400
    with pytest.raises(UsageError, match="months"):
        lake.sql("select interval 1 month as span")
    for value in ("'infinity'::timestamp", "'-infinity'::date", "'20000-01-01'::timestamp", "'infinity'::timestamptz"):
        with pytest.raises(UsageError, match="isfinite"):
            lake.sql(f"select {value} as moment")
    assert lake.sql("select timestamp '9999-12-31 23:59:59' as t, null::date as d")["t"].item().year == 9999


def test_a_table_fits_its_terminal_or_stands_on_end() -> None:
    rows = pa.table({"name": ["a" * 90, "b"], "n": [1, 22], "wide": ["漢字" * 40, None]})
    lines = table_text(rows, Layout(width=60)).splitlines()
    assert len(lines) == 3 and "…" in lines[1] and all(len(line) <= 60 for line in lines)
    many = pa.table({f"column_{i}": ["value"] for i in range(30)})
    standing = table_text(many, Layout(width=60)).splitlines()
    assert standing[0] == "-- row 1 --" and len(standing) == 31
    assert "more rows" in table_text(pa.table({"i": range(300)}), Layout())
    assert table_text(rows.slice(0, 0), Layout(width=60)).split() == ["name", "n", "wide"]


def test_values_of_a_typed_statement() -> None:
    text = "select $a, $b, $c, $d where $run is not null"
    given = {"a": "3", "b": "2.5", "c": "'3'", "d": "true", "run": "demo-1"}
    assert sql_values(text, given) == {"a": 3, "b": 2.5, "c": "3", "d": True, "run": "demo-1"}
    assert sql_values("select 1", {"run": "demo-1"}) == {}
    with pytest.raises(UsageError, match=r"\$d"):
        sql_values(text, {name: value for name, value in given.items() if name != "d"})
    with pytest.raises(UsageError, match="no parameter"):
        sql_values("select 1", {"a": "1"})
