"""How rows leave the command line: to a file whose ending says the format, to a pipe, or fitted to the terminal."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...lake.errors import UsageError
from ..terminal import say

if TYPE_CHECKING:
    from ...queries.results.rows import Rows
    from ...queries.results.text_table import Layout

RowForm = Annotated[
    str | None,
    typer.Option("--format", "-f", help="table, csv, json, jsonl or parquet; by default the file's ending or table."),
]
RowOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write all rows to FILE.parquet, .csv, .json, .jsonl or .txt, replacing it."),
]
Vertical = Annotated[bool, typer.Option("--vertical", "-x", help="One line per value instead of a table.")]
CsvSafe = Annotated[bool, typer.Option("--csv-safe", help="With csv: put ' before texts that would be formulas.")]
PAGED_ROWS = 10_000
"""Rows of a table in a pager; without one a table ends after 200."""


def print_rows(
    make: Callable[[], "Rows"],
    form: str | None,
    output: Path | None = None,
    *,
    vertical: bool = False,
    csv_safe: bool = False,
) -> None:
    """Print or write the rows that `make` returns; what had to be renamed is said on stderr."""
    from ...queries.results.formats import emit, file_format, render

    if output is not None:
        file_format(output, form)  # a file that cannot be written is refused before the work
    rows = with_notes(make)
    if csv_safe and output is None and form != "csv":
        raise UsageError("--csv-safe is of CSV only. Add --format csv, or -o FILE.csv.")
    paged = output is None and form in (None, "table") and sys.stdout.isatty()
    if not paged:
        return emit(rows, form, output, None if output else _layout(vertical, rows=None), csv_safe=csv_safe)
    return page(render(rows, "table", _layout(vertical, rows=PAGED_ROWS if _pager() else None)).decode())


def with_notes(make: Callable[[], "Rows"]) -> "Rows":
    """The rows; renamed columns are said on stderr."""
    from ...lake.sql.result_columns import RenamedColumnWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RenamedColumnWarning)
        rows = make()
    for warning in caught:
        say(str(warning.message))
    return rows


def _layout(vertical: bool, *, rows: int | None) -> "Layout":
    from ...queries.results.text_table import TABLE_ROWS, Layout

    # A pipe has no width; rows that are cut by chance are worse than long lines.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return Layout(width=width, vertical=vertical, most_rows=rows or TABLE_ROWS)


def page(text: str) -> None:
    """Print, through the pager where the text is longer than the screen."""
    command = _pager()
    if command and text.count("\n") >= shutil.get_terminal_size().lines:
        # -F -R -X -S: stay if it fits, keep the screen, never wrap; a pager that is left early is no mistake.
        environment = {"LESS": "-FRXS", "LESSCHARSET": "utf-8", **os.environ}
        subprocess.run(command, input=text.encode(), env=environment, check=False, shell=True)
        return
    sys.stdout.write(text)


def _pager() -> str | None:
    """$PAGER, or less where it is installed; none if the variable is empty, or where nobody can turn its pages."""
    if not sys.stdin.isatty():
        return None
    chosen = os.environ.get("PAGER")
    if chosen is None:
        return "less" if shutil.which("less") else None
    return chosen.strip() or None
