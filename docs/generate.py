"""Write the pages of `docs/` that derive from the code: `python docs/generate.py`, or `--check` to only compare.

`cli.md` comes from the Typer app and `CollectConfig`, `schema.md` from the schema and the views as DuckDB binds them,
`queries.md` from the headers of the saved queries. Not part of the installed package.
"""

import argparse
import inspect
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Set
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import duckdb
import typer

import tracelake
from tracelake.analysis.question import QUESTIONS
from tracelake.cli import app
from tracelake.collect.configuration.config import CollectConfig
from tracelake.commands.analyses.analyze import question_verb
from tracelake.commands.collecting.collect import CALL, full_command
from tracelake.commands.verbs import VERBS
from tracelake.lake import Lake
from tracelake.lake.errors import LakeError
from tracelake.lake.schema import SCHEMA_VERSION, TABLES
from tracelake.lake.sql.duck import Connection
from tracelake.lake.sql.statement import reading_statement
from tracelake.lake.tables.table import Table
from tracelake.queries import header
from tracelake.queries.derived_views import View, views
from tracelake.queries.saved_query import SavedQuery, saved_queries

DOCS = Path(__file__).parent
NOTE = "<!-- Written by `make docs`; changes made here are lost. -->"
ABOUT_THE_CALL = ("config", "resume", "dry_run", "yes", "as_json", "lake")
"""Options of `lake collect` that are no settings of the run."""


def pages() -> dict[str, str]:
    """Text of every generated page by file name."""
    return {"cli.md": cli_page(), "schema.md": schema_page(), "queries.md": queries_page()}


# -- cli.md ------------------------------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """The commands of `lake` in the order of its help."""
    found = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    return found | {"collect": full_command()}


def subcommands(group: Any) -> dict[str, Any]:
    """The commands of a group in the order of its help."""
    context = group.make_context(group.name, [], resilient_parsing=True)
    return {name: group.get_command(context, name) for name in group.list_commands(context)}


def cli_page() -> str:
    """Every command with its arguments, options and defaults, and the exit codes."""
    lines = [NOTE, "", "# Commands", "", *_INTRODUCTION.strip().splitlines(), ""]
    for name, command in commands().items():
        lines += [f"## lake {name}", "", *_paragraphs(command.help), ""]
        alone = VERBS[name].app(name)
        if not alone.registered_groups:
            table = _settings if name == "collect" else _options
            lines += table(command, _hints(alone)[name])
            continue
        group = alone.registered_groups[0].typer_instance
        assert group is not None
        hints = _hints(group) | ({q: question_verb(q).__annotations__ for q in QUESTIONS} if name == "analyze" else {})
        for inner, inner_command in subcommands(command).items():
            lines += [f"### lake {name} {inner}", "", *_paragraphs(inner_command.help), ""]
            lines += _options(inner_command, hints[inner])
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|", "| 0 | Done. |", "| 1 | Something unexpected. |"]
    lines += [_row(str(error.exit_code), (error.__doc__ or "").strip()) for error in _errors()]
    return "\n".join(lines) + "\n"


def _hints(app: typer.Typer) -> dict[str, dict[str, Any]]:
    """The annotations of every command of an app or group."""
    return {_name(info): get_type_hints(info.callback, include_extras=True) for info in app.registered_commands}


HEAD = ["| argument or option | value | default | meaning |", "|---|---|---|---|"]


def _options(command: Any, hints: dict[str, Any]) -> list[str]:
    """The table of a command's arguments and options."""
    return [*HEAD, *(_row(*_parameter(parameter, hints)) for parameter in command.params), ""]


def _settings(command: Any, hints: dict[str, Any]) -> list[str]:
    """The options of `lake collect` under the headings of its help."""
    lines: list[str] = []
    for heading, parameters in groupby(command.params, lambda parameter: parameter.rich_help_panel or CALL):
        lines += [f"**{heading}**", "", *HEAD]
        for parameter in parameters:
            of_call = parameter.name in ABOUT_THE_CALL
            lines.append(_row(*(_parameter(parameter, hints) if of_call else _setting(parameter))))
        lines.append("")
    return lines


def _setting(parameter: Any) -> tuple[str, str, str, str]:
    """The row of an option that is a field of the configuration."""
    field = CollectConfig.model_fields[parameter.name]
    named = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if get_origin(field.annotation) is Literal:
        value = ", ".join(f"`{word}`" for word in get_args(field.annotation))
    elif parameter.is_flag:
        value = ""
    elif parameter.multiple:
        value = f"{'text' if parameter.metavar == 'TEXT' else parameter.metavar}, repeatable"
    else:
        value = _value(field.annotation, parameter)
    default = "`yes`" if field.default is True else _shown(field.default)
    return named, value, default, field.description or ""


_INTRODUCTION = """
`lake` and `tracelake` are the same program. Results go to standard output; progress and messages go to standard error.
`--json` prints one JSON value with stable keys. `RUN` is a run's id, a unique prefix of it, a tag, or `latest`.

Settings of `lake collect` are taken from a YAML file (`--config`), then from environment variables (`TRACELAKE_` and
the setting's name in capitals, for example `TRACELAKE_BATCH_SIZE`), then from the options; later ones win.
`--trust-remote-code` counts only where it is typed. Unknown names are errors, also among the environment variables that
begin with `TRACELAKE_`. The Python call `tracelake.collect(lake, ...)` takes the same names with underscores.
"""


def _name(info: Any) -> str:
    return info.name or info.callback.__name__.replace("_", "-")


def _parameter(parameter: Any, hints: dict[str, Any]) -> tuple[str, str, str, str]:
    flag = parameter.param_type_name == "option"
    named = ", ".join(f"`{name}`" for name in parameter.opts) if flag else f"`{parameter.metavar or parameter.name}`"
    annotation = hints[parameter.name]
    annotation = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    value, default = _value(annotation, parameter), _shown(parameter.default)
    if parameter.envvar:
        default += f" (or `{parameter.envvar}`)"
    if not default and not flag and not str(parameter.metavar).startswith("["):
        default = "required" if parameter.required else ""
    return named, value, default, parameter.help or ""


def _value(annotation: Any, parameter: Any) -> str:
    if parameter.metavar and parameter.param_type_name == "option":
        return parameter.metavar
    kinds = set(get_args(annotation)) or {annotation}
    for kind, word in ((bool, ""), (int, "whole number"), (float, "number"), (Path, "path")):
        if kind in kinds:
            return word
    return "text, repeatable" if parameter.multiple else "text"


def _shown(value: Any) -> str:
    if value is None or value is False or value == () or value == []:
        return ""
    if isinstance(value, tuple | list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{value}`"


def _errors() -> Iterator[type[LakeError]]:
    return iter(sorted(LakeError.__subclasses__(), key=lambda error: error.exit_code))


# -- schema.md ---------------------------------------------------------------------------------------------------------


def schema_page() -> str:
    """Every table and view with type, unit and meaning of each column, as DuckDB shows them."""
    with tempfile.TemporaryDirectory() as folder:
        Lake.create(folder)
        with tracelake.open(folder).connect(locked=True) as connection:
            types = {name: dict(_described(connection, name)) for name in (*TABLES, *views())}
    lines = [NOTE, "", "# Tables and views", "", *_SCHEMA.format(version=SCHEMA_VERSION).strip().splitlines(), ""]
    for name, table in TABLES.items():
        lines += _table_lines(table, types[name])
    lines += ["# Views", "", "Views hold no rows of their own; they are there in every connection.", ""]
    for name, view in views().items():
        lines += _view_lines(view, types[name])
    return "\n".join(lines).rstrip() + "\n"


_SCHEMA = """
What `lake sql`, `tracelake.open(path).sql(...)` and saved queries see; schema version {version}. The words are in
[the glossary](glossary.md). `lake show --schema` prints the same. A **bold** column is part of the key: all tables join
on `run_id, sequence_id, position` and, where they have them, `layer`, `site`, `head`. Every table is there in every
lake; one that a run did not keep has no rows.

The row at a position belongs to the token at that position: `token_steps` holds the distribution that *predicted* it,
the other tables hold what the network computed when it *read* it. To pair a state with what it predicts, use the view
`predictions` or `next_tokens`.
"""


def _described(connection: Connection, name: str) -> Iterator[tuple[str, str]]:
    yield from connection.sql(f"describe {name}").select("column_name", "column_type").iter_rows()


def _table_lines(table: Table, types: dict[str, str]) -> list[str]:
    lines = [f"## {table.name}", "", table.doc, "", "| column | type | unit | meaning |", "|---|---|---|---|"]
    for column in table.columns:
        name = f"**{column.name}**" if column.name in table.key else column.name
        lines.append(_row(name, types[column.name], column.unit or "", column.doc))
    return [*lines, ""]


def _view_lines(view: View, types: dict[str, str]) -> list[str]:
    lines = [f"## {view.name}", "", view.description, "", "| column | type | meaning |", "|---|---|---|"]
    known: dict[str, str] = {}
    for column in (column for table in TABLES.values() for column in table.columns):
        known.setdefault(column.name, column.doc)
    for name, kind in types.items():
        source = name.removeprefix("next_")
        of_next = f"Of the predicted token: {known[source]}" if name.startswith("next_") and source in known else ""
        lines.append(_row(name, kind, view.columns.get(name) or known.get(name) or of_next))
    return [*lines, ""]


# -- queries.md --------------------------------------------------------------------------------------------------------


def queries_page() -> str:
    """The catalogue of saved queries with parameters, the tables they read and whether they draw themselves."""
    lines = [NOTE, "", "# Saved queries", "", *_QUERIES.strip().splitlines(), ""]
    lines += [*_header_rules(), ""]
    readable = {*TABLES, *views()}
    with duckdb.connect() as parser:
        for query in saved_queries().values():
            lines += _query_lines(query, reading_statement(parser, query.sql).tables & readable)
    return "\n".join(lines).rstrip() + "\n"


_QUERIES = """
Run one with `lake query NAME`, draw one that has a chart with `lake chart NAME`; give parameters with
`--param NAME=VALUE`, and the run also with `--run RUN`. In Python:
`tracelake.open("lakehouse").query(NAME, run="latest")` and `.chart(NAME, run="latest")`.

A file `LAKE/queries/NAME.sql` is a saved query of yours, and one with the name of a query below takes its place. Begin
with a copy, which works as it is: `lake query layer_norms --sql > lakehouse/queries/my_norms.sql`. A file that breaks
the rules is named by `lake query`, with the line, and does not hide the others.

## The header
"""


def _header_rules() -> list[str]:
    """The rules as `queries/header.py` states them; what is indented there is a block of code here."""
    rules = inspect.cleandoc(header.__doc__ or "").split("\n\n", 1)[1]
    lines: list[str] = []
    for block in rules.split("\n\n"):
        indented = block.startswith("    ")
        lines += ["```", textwrap.dedent(block), "```", ""] if indented else [block, ""]
    return lines[:-1]


def _query_lines(query: SavedQuery, sources: Set[str]) -> list[str]:
    lines = [f"## {query.name}", "", query.header.description, ""]
    facts = f"Reads {', '.join(f'`{name}`' for name in sorted(sources))}."
    if query.has_chart:
        channels = query.header.channels
        drawn = ", ".join(f"{channel} `{encoding.field}`" for channel, encoding in channels.items())
        facts += f" Chart: {query.header.mark}, {drawn}."
    lines += [facts, ""]
    if query.parameters:
        lines += ["| parameter | type | default | meaning |", "|---|---|---|---|"]
        for parameter in query.parameters.values():
            default = "required" if parameter.required else _shown(parameter.default) or "not given"
            lines.append(_row(f"`{parameter.name}`", parameter.type, default, parameter.doc))
        lines.append("")
    return lines


# -- common ------------------------------------------------------------------------------------------------------------


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _paragraphs(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").strip().splitlines()]


def outdated() -> list[Path]:
    """Generated pages whose file is missing or says something else."""
    wanted = {DOCS / name: text for name, text in pages().items()}
    return [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main() -> None:
    """Write the pages, or with --check fail if one is not current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not current")
    if parser.parse_args().check:
        old = ", ".join(path.name for path in outdated())
        sys.exit(f"not current: {old}. Run `make docs`." if old else 0)
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
