"""Small results as plain Python values: what most questions come to, told without loading Arrow."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..values import Json
from .explanation import explains

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MOST_ROWS = 1_000
"""Rows of a small result."""
_NUMBERS = frozenset(
    "TINYINT SMALLINT INTEGER BIGINT UTINYINT USMALLINT UINTEGER UBIGINT FLOAT DOUBLE".split(),
)
_PLAIN = _NUMBERS | {"BOOLEAN", "VARCHAR"}
"""DuckDB's types whose values are the same whether they come as Python's or through Arrow."""


@dataclass(frozen=True)
class PlainRows:
    """A small result: its columns hold text, truth values, numbers of at most 64 bits, or null."""

    column_names: list[str]
    numeric: list[bool]
    """Which columns hold numbers."""
    values: list[tuple[Any, ...]]

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.values)


def fetch_plain(
    connection: "duckdb.DuckDBPyConnection", query: str, parameters: Sequence[Any] | Json | None
) -> "PlainRows | pa.Table | None":
    """The result in plain values; an Arrow table where it is large; None, and not yet computed, for other types."""
    relation = connection.sql(query, params=parameters)  # bound, not run
    if relation is None or explains(query):
        return None
    names, kinds = relation.columns, [str(kind) for kind in relation.types]
    if not _PLAIN.issuperset(kinds) or len({name.lower() for name in names}) < len(names):
        return None
    answer = connection.execute(query, parameters)
    values = answer.fetchmany(MOST_ROWS + 1)
    if len(values) > MOST_ROWS:
        return _large(values, answer)
    return PlainRows(names, [kind in _NUMBERS for kind in kinds], values)


def _large(first: list[tuple[Any, ...]], answer: "duckdb.DuckDBPyConnection") -> "pa.Table":
    """The rows that were fetched, and the rest."""
    import pyarrow as pa

    with warnings.catch_warnings():
        # Arrow has to copy the rest: the price of not asking twice.
        warnings.filterwarnings("ignore", "Arrow output on a DB-API result")
        rest = answer.to_arrow_table()
    assert rest is not None
    columns = zip(zip(*first, strict=True), rest.schema, strict=True)
    arrays = [pa.array(column, field.type) for column, field in columns]
    return pa.concat_tables([pa.Table.from_arrays(arrays, schema=rest.schema), rest])
