"""Derived views without parameters, one `.sql` file each, bound onto a lake's connection in order of name.

A view may use the tables of `lake/schema.py` and views whose names sort before its own. That each file is one SELECT
without parameters is tested, not looked at again whenever a lake is asked.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import NamedTuple

from .header import parse_header


class ViewDefinition(NamedTuple):
    """What `Lake.connect(extra_views=...)` takes: the view's name, its SELECT, and one sentence about it."""

    name: str
    sql: str
    comment: str


@dataclass(frozen=True)
class View:
    """A derived view with the meaning of its columns."""

    name: str
    file: PurePath
    text: str
    sql: str
    description: str
    columns: dict[str, str]


@cache
def views() -> dict[str, View]:
    """Every derived view by name, in the order in which they are made."""
    folder = resources.files(__name__.rpartition(".")[0]).joinpath("views")
    texts = {PurePath(str(file)): file.read_text(encoding="utf-8") for file in folder.iterdir()}
    return {file.stem: _read(file, texts[file]) for file in sorted(texts) if file.suffix == ".sql"}


@cache
def view_definitions() -> tuple[ViewDefinition, ...]:
    """The views for `Lake.connect(extra_views=...)`, which makes those that a statement names."""
    return tuple(ViewDefinition(view.name, view.sql, view.description) for view in views().values())


def _read(file: PurePath, text: str) -> View:
    header = parse_header(text, file)
    lines = text.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return View(file.stem, file, text, "".join(lines[first:]).strip().rstrip(";"), header.description, header.columns)
