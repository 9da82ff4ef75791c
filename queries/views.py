"""Derived views without parameters, one `.sql` file each, bound onto a lake's connection in order of name.

A view may use the tables of `lake/schema.py` and views whose names sort before its own.
"""

from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from typing import NamedTuple

import duckdb

from ..lake.errors import ConfigError
from .header import parse_header
from .saved_query import one_select


class ViewDefinition(NamedTuple):
    """What `Lake.connect(extra_views=...)` takes: the view's name, its SELECT, and one sentence about it."""

    name: str
    sql: str
    comment: str


@dataclass(frozen=True)
class View:
    """A derived view with the meaning of its columns."""

    name: str
    sql: str
    description: str
    columns: dict[str, str]


def views() -> dict[str, View]:
    """Every derived view by name, in the order in which they are created."""
    files = sorted(resources.files(__name__.rpartition(".")[0]).joinpath("views").iterdir(), key=lambda file: file.name)
    with closing(duckdb.connect()) as parser:
        loaded = [
            _load(parser, file.read_text(encoding="utf-8"), PurePath(str(file)))
            for file in files
            if file.name.endswith(".sql")
        ]
    return {view.name: view for view in loaded}


def view_definitions() -> list[ViewDefinition]:
    """The views as (name, sql, comment), for `Lake.connect(extra_views=...)`; later ones may use earlier ones."""
    return [ViewDefinition(view.name, view.sql, view.description) for view in views().values()]


def _load(parser: duckdb.DuckDBPyConnection, text: str, file: PurePath) -> View:
    header = parse_header(text, file)
    statement = one_select(parser, text, file)
    if statement.named_parameters:
        raise ConfigError(f"{file}: a view cannot have parameters; found {sorted(statement.named_parameters)}.")
    return View(file.stem, statement.query.strip().rstrip(";"), header.description, header.columns)
