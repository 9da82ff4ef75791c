"""Answers in plain values: the same bytes as through Arrow, and no Arrow loaded for a small question."""

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import tracelake
from tracelake.lake.sql.plain_rows import MOST_ROWS, PlainRows
from tracelake.queries.results.formats import FORMATS, write

QUESTIONS = {
    "numbers": "SELECT 1::TINYINT a, (-32768)::SMALLINT b, 7 c, 9223372036854775807 d, 255::UTINYINT e, 1::USMALLINT f",
    "large": "SELECT 4294967295::UINTEGER a, 18446744073709551615::UBIGINT b",
    "floats": "SELECT 0.1::FLOAT a, 0.1::DOUBLE b, 'nan'::FLOAT c, '-inf'::DOUBLE d, -0.0::DOUBLE e, 1e-42::FLOAT f",
    "texts": "SELECT '' a, ' b' b, '=1+1' c, 'é\n\"😀' d, chr(0) e, 'NULL' f",
    "nulls": "SELECT NULL::INTEGER a, NULL::VARCHAR b, NULL::BOOLEAN c, NULL::DOUBLE d",
    "truth": "SELECT true a, false b",
    "none": "SELECT 1 a, 'x' b WHERE false",
    "rows": "SELECT i, i / 7 q, i::VARCHAR || 'x' t FROM range(250) AS r(i) ORDER BY i DESC",
    "parameter": "SELECT $a::VARCHAR a, $b::DOUBLE b",
}
OTHERS = {
    "one name twice": "SELECT 1 a, 2 A",
    "hugeint": "SELECT sum(i) s FROM range(3) AS r(i)",
    "decimal": "SELECT 1.50 a",
    "time": "SELECT TIMESTAMP '2026-11-26 08:30:00' a",
    "list": "SELECT [1, 2] a",
    "struct": "SELECT {'a': 1} a",
    "json": "SELECT '{}'::JSON a",
    "null": "SELECT NULL a",
    "description": "DESCRIBE token_steps",
    "tables": "SHOW TABLES",
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> "tracelake.OpenLake":
    """A lake without runs."""
    return tracelake.OpenLake.create(tmp_path_factory.mktemp("plain") / "lake")


def _told(rows: PlainRows | pa.Table, form: str) -> bytes:
    stream = io.BytesIO()
    write(rows, form, stream)
    return stream.getvalue()


@pytest.mark.parametrize("name", QUESTIONS)
def test_plain_values_are_told_as_arrow_tells_them(lake: "tracelake.OpenLake", name: str) -> None:
    values = {"a": "it's", "b": 0.25} if name == "parameter" else {}
    plain, arrow = lake.rows(QUESTIONS[name], values), lake.arrow(QUESTIONS[name], values)
    assert isinstance(plain, PlainRows)
    assert plain.num_rows == arrow.num_rows
    for form in set(FORMATS) - {"parquet"}:
        assert _told(plain, form) == _told(arrow, form)


@pytest.mark.filterwarnings("ignore:Columns of one name")
@pytest.mark.parametrize("name", OTHERS)
def test_what_python_has_no_such_value_for_comes_through_arrow(lake: "tracelake.OpenLake", name: str) -> None:
    rows = lake.rows(OTHERS[name])
    assert isinstance(rows, pa.Table)
    assert lake.arrow(OTHERS[name]).equals(rows)


@pytest.mark.parametrize("more", [0, 1, 5_000])
def test_a_large_result_is_whole_and_in_order(lake: "tracelake.OpenLake", more: int) -> None:
    query = f"SELECT i, i / 3 q, 'r' || i t, i % 2 = 0 b FROM range({MOST_ROWS + more}) AS r(i) ORDER BY i"
    rows, arrow = lake.rows(query), lake.arrow(query)
    assert isinstance(rows, PlainRows) == (more == 0)
    assert _told(rows, "jsonl") == _told(arrow, "jsonl")
    if isinstance(rows, pa.Table):
        assert arrow.equals(rows)


def test_a_small_question_loads_neither_arrow_nor_numpy(lake: "tracelake.OpenLake") -> None:
    def loaded(*words: str) -> str:
        words = ("lake", *words, "--lake", str(lake.path))
        code = f"import sys; sys.argv = {list(words)!r}; from tracelake.cli import main\n"
        code += "try: main()\nexcept SystemExit: pass\n"
        code += "print(sorted({'numpy', 'pyarrow', 'polars'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
        assert not done.stderr
        return done.stdout.splitlines()[-1]

    assert loaded("sql", "select 1 a, count(*) n from runs") == "[]"
    assert loaded("sql", "select 1.5 a") == "['numpy', 'pyarrow']"
