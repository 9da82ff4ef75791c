"""Derived views without parameters, one `.sql` file each, bound onto a lake's connection in order of name.

A view may use the tables of `lake/schema.py` and views whose names sort before its own.
"""

import re
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from typing import NamedTuple

import duckdb

from ..lake.errors import ConfigError
from .header import parse_header
from .saved_query import one_select

_WORD = re.compile(r"\w+")
_CATALOGUE_WORDS = {"show", "describe", "desc", "summarize", "information_schema"}


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


def views(named_in: str | None = None) -> dict[str, View]:
    """Every derived view by name, in the order in which they are created; or those that a statement needs."""
    folder = resources.files(__name__.rpartition(".")[0]).joinpath("views")
    files = {PurePath(str(file)): file.read_text(encoding="utf-8") for file in folder.iterdir()}
    texts = {file.stem: (file, files[file]) for file in sorted(files) if file.suffix == ".sql"}
    needed = texts if named_in is None else _needed(named_in, {name: text for name, (_, text) in texts.items()})
    if not needed:
        return {}
    with closing(duckdb.connect()) as parser:
        return {name: _load(parser, text, file) for name, (file, text) in texts.items() if name in needed}


def _needed(statement: str, texts: dict[str, str]) -> set[str]:
    """Views that a statement names, and the views that those name; all of them if it asks what there is."""
    words = set(_WORD.findall(statement.lower()))
    if words & _CATALOGUE_WORDS or any(word.startswith("duckdb_") for word in words):
        return set(texts)
    needed: set[str] = set()
    for name in reversed(texts):  # a view uses only views that sort before it
        if name in words:
            needed.add(name)
            words |= set(_WORD.findall(texts[name].lower()))
    return needed


def view_definitions(named_in: str | None = None) -> list[ViewDefinition]:
    """The views as (name, sql, comment), for `Lake.connect(extra_views=...)`; later ones may use earlier ones.

    With `named_in` only those that a statement needs: binding them all costs a short query more than its answer.
    """
    return [ViewDefinition(view.name, view.sql, view.description) for view in views(named_in).values()]


def _load(parser: duckdb.DuckDBPyConnection, text: str, file: PurePath) -> View:
    header = parse_header(text, file)
    statement = one_select(parser, text, file)
    if statement.named_parameters:
        raise ConfigError(f"{file}: a view cannot have parameters; found {sorted(statement.named_parameters)}.")
    return View(file.stem, statement.query.strip().rstrip(";"), header.description, header.columns)
