"""DESCRIBE and SHOW TABLES with the meaning of every column and table, which DuckDB keeps but does not print."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_DESCRIBE = re.compile(r"""\s*desc(?:ribe)?\s+(?:table\s+)?"?(?P<name>\w+)"?\s*;?\s*""", re.I)
_SHOW_TABLES = re.compile(r"\s*show\s+tables\s*;?\s*", re.I)


def explains(query: str) -> bool:
    """Whether `described` has something to add to the answer of a query."""
    return bool(_DESCRIBE.fullmatch(query) or _SHOW_TABLES.fullmatch(query))


def described(connection: "duckdb.DuckDBPyConnection", query: str, rows: "pa.Table") -> "pa.Table":
    """`rows` as they are, or with a `comment` column if `query` describes one table or lists them all."""
    asked = _DESCRIBE.fullmatch(query)
    if asked is not None:
        found = connection.execute(
            "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = $1", [asked["name"].lower()]
        )
        return _with_comments(rows, "column_name", dict(found.fetchall()))
    if _SHOW_TABLES.fullmatch(query) is not None:
        found = connection.execute(
            "SELECT view_name, comment FROM duckdb_views() UNION ALL SELECT table_name, comment FROM duckdb_tables()"
        )
        return _with_comments(rows, "name", dict(found.fetchall()))
    return rows


def _with_comments(rows: "pa.Table", key: str, comments: dict[str, str | None]) -> "pa.Table":
    import pyarrow as pa

    texts = [comments.get(name) for name in rows[key].to_pylist()]
    return rows.append_column("comment", pa.array(texts, pa.string()))
