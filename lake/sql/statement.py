"""What an SQL text is: one statement that only reads, or an error that says what it is instead.

DuckDB's own parser gives the tree; of it only nodes and functions that are known to read are let through. So what a
later DuckDB can do, or what a statement hides inside another one, is refused until somebody has allowed it here.
"""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from ..errors import UsageError, did_you_mean
from ..values import Json
from .functions import FUNCTIONS, TABLES

_QUERIES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_SOURCES = {"BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "PIVOT", "SHOW_REF", "SUBQUERY", "TABLE_FUNCTION"}
_MODIFIERS = {"DISTINCT_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "ORDER_MODIFIER"}
_ORDERS = {"ASCENDING", "DESCENDING", "ORDER_DEFAULT"}
_NODES = _QUERIES | _SOURCES | _MODIFIERS | _ORDERS
_EXPRESSIONS = set(
    """
    BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA OPERATOR PARAMETER
    POSITIONAL_REFERENCE STAR SUBQUERY TYPE WINDOW
    """.split()
)
_MORE = "For anything else use `Lake.connect()` in Python."

LONGEST_REMEMBERED, MOST_REMEMBERED = 20_000, 500
"""Characters of a statement, and statements, that are remembered once they were found to read only."""


@dataclass(frozen=True)
class Statement:
    """One SELECT that reads and does nothing else."""

    text: str
    tables: frozenset[str]
    """The names after its FROMs, in lower case."""
    own: frozenset[str]
    """Those of its WITHs."""
    asks_what_there_is: bool
    """Whether it lists tables, or reads DuckDB's own catalogue."""
    describes: bool
    """Whether it says what the columns of something are."""


_READ: dict[str, Statement] = {}
"""By their text, on which alone it depends what they are: a report asks the same ones for every neuron it shows."""


def reading_statement(connection: "duckdb.DuckDBPyConnection", text: str) -> Statement:
    """`text` as one SELECT (also FROM, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW); UsageError for anything else."""
    known = _READ.get(text) if isinstance(text, str) else None
    if known is None:
        known = _checked(connection, text)
        if len(text) <= LONGEST_REMEMBERED:
            if len(_READ) >= MOST_REMEMBERED:
                _READ.clear()
            _READ[text] = known
    return known


def _checked(connection: "duckdb.DuckDBPyConnection", text: str) -> Statement:
    tree = _tree(connection, text)
    try:
        used = list(_nodes(tree["statements"]))
        for node in used:
            _check(node)
    except RecursionError:
        raise UsageError("The SQL is nested too deeply to be checked. Give the inner parts names with WITH.") from None
    tables = frozenset(name for node in used if (name := _table(node)))
    named = {entry["key"].lower() for node in used if "cte_map" in node for entry in node["cte_map"]["map"]}
    for name in tables - named:
        if not name.replace("_", "").replace("$", "").isalnum():
            raise UsageError(f"{name!r} is no table of the lake: files cannot be read by name here. {_MORE}")
    describes = any(node.get("type") == "SHOW_REF" for node in used)
    return Statement(text, tables, frozenset(named), any(map(_asks_what_there_is, used)), describes)


def parsed(connection: "duckdb.DuckDBPyConnection", text: str) -> "list[duckdb.Statement]":
    """The statements of a text; UsageError if DuckDB cannot parse them or has no name for their kind."""
    try:
        return connection.extract_statements(text)
    except duckdb.Error as error:
        raise UsageError(f"The SQL cannot be parsed: {one_line(error)}") from None
    except (TypeError, UnicodeError):  # lone surrogates: the bindings take them for no text at all
        raise UsageError("The SQL is no text in UTF-8.") from None
    except ValueError:  # a kind of statement that this DuckDB's Python does not know
        raise UsageError(f"Exactly one SELECT is possible here; given: another kind of statement. {_MORE}") from None


def one_line(error: duckdb.Error) -> str:
    """DuckDB's message on one line, without the echo of the query."""
    return " ".join(str(error).split("\n\nLINE")[0].split())


def _tree(connection: "duckdb.DuckDBPyConnection", text: str) -> Json:
    statements = parsed(connection, text)
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        pivot = "MULTI" in kinds or "pivot" in text.lower()
        hint = " Write PIVOT as `FROM (PIVOT t ON c IN (...) USING ...)`." if pivot else ""
        raise UsageError(
            "Exactly one SELECT is possible here (also FROM, WITH, DESCRIBE, SUMMARIZE, SHOW); "
            f"given: {', '.join(kinds) or 'none'}.{hint} {_MORE}"
        )
    # The statement as DuckDB cut it out: serializing knows no semicolon with nothing after it.
    rows = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [statements[0].query]).fetchall()
    try:
        tree = json.loads(rows[0][0])
    except RecursionError:
        raise UsageError("The SQL is nested too deeply to be checked. Give the inner parts names with WITH.") from None
    if tree["error"] or len(tree["statements"]) != 1:
        raise UsageError(f"The SQL cannot be checked: {tree.get('error_message', 'more than one statement')}. {_MORE}")
    return tree


def _nodes(value: Any) -> Iterator[Json]:
    """Every object of a tree, the outer ones first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _nodes(item)


def _check(node: Json) -> None:
    """Refuse a node that is not known to read, and a function that is not on the list."""
    kind, name = node.get("type"), node.get("function_name")
    if "class" in node:
        known = node["class"] in _EXPRESSIONS
    else:
        known = not isinstance(kind, str) or kind in _NODES or kind.endswith("_TYPE_INFO")
    if not known or "info_type" in node:
        words = str(node.get("class", kind)).replace("_QUERY", "").removesuffix("_NODE").replace("_", " ")
        raise UsageError(f"Only reading is possible here; the SQL has {words}, which is not known to read. {_MORE}")
    if kind == "TABLE_FUNCTION":
        called = node["function"].get("function_name")
        if called is None or called.lower() not in TABLES:
            near = did_you_mean(str(called), sorted(TABLES), show=len(TABLES))
            raise UsageError(f"The table function {called!r} is not possible here.{near} {_MORE}")
    elif name is not None and name not in FUNCTIONS and name.lower() not in FUNCTIONS | TABLES:
        near = difflib.get_close_matches(name.lower(), FUNCTIONS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"The function {name!r} does not exist or is not possible here.{hint} {_MORE}")


def _asks_what_there_is(node: Json) -> bool:
    called = node["function"].get("function_name", "") if node.get("type") == "TABLE_FUNCTION" else ""
    listed = node.get("type") == "SHOW_REF" and _table(node) is None and not node.get("query")
    return listed or called.lower().startswith(("duckdb_", "pragma_"))


def _table(node: Json) -> str | None:
    """The name after a FROM, DESCRIBE or SHOW, if the node has one."""
    if node.get("type") == "SHOW_REF" and node.get("show_type") == "SHOW_SPECIAL":
        return None
    return (node.get("table_name") or "").lower() or None if node.get("type") in ("BASE_TABLE", "SHOW_REF") else None
