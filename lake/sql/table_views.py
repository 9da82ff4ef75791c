"""The SQL of the table views: explicit types, vectors as FLOAT[], comments on every column. Only builds text."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from ..tables.run_row import RunRow
from ..tables.table import Column, Table
from .quoting import literal, quoted

DECODER = "decode_vector"


def variable(table: Table, group: int) -> str:
    """Name of the DuckDB variable that holds one list of files."""
    return f"{table.name}_files" + (f"_{group}" if group else "")


def view_sql(table: Table, groups: Sequence[tuple[str, ...]]) -> str:
    """The view of one table over its file lists, one group per set of columns; an empty relation if there are none."""
    sources = [_scan(table, columns, index) for index, columns in enumerate(groups)]
    body = " UNION ALL ".join(sources) if sources else _empty(table)
    return f"CREATE OR REPLACE VIEW {quoted(table.name)} AS {body};"


def runs_sql(table: Table) -> str:
    """The table `runs` from its rows as one JSON text, the statement's parameter."""
    fields = ", ".join(f'"{c.name}": "{c.kind.sql}"' for c in table.columns)
    rows = f"unnest(from_json($1::JSON, {literal(f'[{{{fields}}}]')}))"
    return f"CREATE TABLE {quoted(table.name)} AS SELECT run.* FROM (SELECT {rows} AS run)"


def runs_json(rows: Iterable[RunRow]) -> str:
    """That parameter. As JSON, because building an Arrow table from Python values would import pandas."""
    times = [{k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()} for row in rows]
    return json.dumps(times)


def comments_sql(table: Table) -> str:
    """Comments that explain the view and its columns."""
    lines = [f"COMMENT ON VIEW {quoted(table.name)} IS {literal(table.doc)};"]
    for column in table.columns:
        text = column.doc + (f" [{column.unit}]" if column.unit else "")
        lines.append(f"COMMENT ON COLUMN {quoted(table.name)}.{quoted(column.name)} IS {literal(text)};")
    return "\n".join(lines)


def _empty(table: Table) -> str:
    columns = (f"NULL::{_view_type(table, c)} AS {quoted(c.name)}" for c in table.columns)
    return f"SELECT {', '.join(columns)} WHERE false"


def broken_view_sql(table: Table, message: str) -> str:
    """A typed view that raises `message` when its rows are read, whatever is asked of them.

    The error is in every column too: over columns that are constantly null, a filter alone proves that there are no
    rows, and the optimizer would answer 0 without ever reaching the error.
    """
    error = f"error({literal(message)})"
    columns = (f"{error}::{_view_type(table, c)} AS {quoted(c.name)}" for c in table.columns)
    body = f"SELECT {', '.join(columns)} FROM range(1) WHERE {error} IS NULL"
    return f"CREATE OR REPLACE VIEW {quoted(table.name)} AS {body};"


def unbound_view_sql(table: Table) -> str:
    """The view of a table that no statement has named: typed, and an error rather than empty if it is read anyway."""
    return broken_view_sql(table, f"the files of {table.name} are not bound: a fault of tracelake, please report it")


def _scan(table: Table, written: tuple[str, ...], group: int) -> str:
    """Files whose columns are as declared are pruned by their folders; others get what they lack as nulls."""
    files = f"getvariable({literal(variable(table, group))})"
    if set(table.names) <= set(written):
        kinds = {"run": "VARCHAR"} | {name: table.column(name).kind.sql for name in table.partitions}
        pairs = ", ".join(f"{literal(k)}: {literal(v)}" for k, v in kinds.items())
        options = f"hive_partitioning = true, hive_types = {{{pairs}}}"
        return f"SELECT {_columns(table, {'run_id': 'run'})} FROM read_parquet({files}, {options})"
    fields = ", ".join(
        f"{literal(c.name)}: {{name: {literal(c.name)}, type: {literal(c.kind.sql)}, default_value: NULL}}"
        for c in table.columns
    )
    return f"SELECT {_columns(table, {})} FROM read_parquet({files}, schema = map {{{fields}}})"


def _columns(table: Table, sources: Mapping[str, str]) -> str:
    def select() -> Iterator[str]:
        for column in table.columns:
            name = quoted(column.name)
            if column.name == table.vector:
                scale = "scale" if "scale" in table.names else "NULL::FLOAT"
                yield f"{DECODER}({name}, dtype, {scale}) AS {name}"
            else:
                yield f"{quoted(sources.get(column.name, column.name))} AS {name}"

    return ", ".join(select())


def _view_type(table: Table, column: Column) -> str:
    return "FLOAT[]" if column.name == table.vector else column.kind.sql
