"""The verbs that ask and draw: `lake runs`, `show`, `sql`, `query`, `chart`. Heavy things are imported inside them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..lake.errors import NotFoundError, UsageError
from .terminal import HERE, AnyRun, AsJson, LakePath, Params, RunOption, open_lake, print_json, say
from .toolkit import completion
from .toolkit.rows import CsvSafe, RowForm, RowOutput, Vertical, print_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from ..facade.open_lake import OpenLake


def runs(
    form: RowForm = None,
    vertical: Vertical = False,
    as_json: AsJson = False,
    output: RowOutput = None,
    lake: LakePath = HERE,
) -> None:
    """List the runs of the lake, newest first."""
    from ..queries.run_list import run_list, typed_run_list

    opened, chosen = open_lake(lake), "json" if as_json else form
    # A file keeps the types of its columns; on a screen the values are all that there is.
    make = run_list if output is None and chosen != "parquet" else typed_run_list
    print_rows(lambda: make(opened), chosen, output, vertical=vertical)


def show(
    run: AnyRun = "latest",
    schema: Annotated[bool, typer.Option("--schema", help="Explain every table and column instead.")] = False,
    timings: Annotated[bool, typer.Option("--timings", help="Show where the time of the run went instead.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show flags and risk of each segment as it comes.")] = False,
    profile: Annotated[str, typer.Option(help="With --follow: thresholds, a row of health_profiles.")] = "default",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Show one run: its model, configuration, tables and sizes; or its health as it comes, its timings, the schema."""
    if schema + timings + follow > 1:
        raise UsageError("Give one of --schema, --timings and --follow.")
    from ..queries.description import describe_schema, run_text, schema_text

    if schema:
        description = describe_schema()
        return print_json(description) if as_json else print(schema_text(description))
    opened = open_lake(lake)
    run_id = opened.resolve_run(run)
    if timings:
        return _show_timings(opened, run_id, as_json)
    if follow:
        return _follow(opened, run_id, profile, as_json)
    facts = opened.describe(run_id)
    return print_json(facts) if as_json else print(run_text(facts))


def _show_timings(opened: "OpenLake", run_id: str, as_json: bool) -> None:
    from ..queries.cost import cost_text

    cost = opened.timings(run_id)
    return print_json(cost) if as_json else print(cost_text(cost))


def _follow(opened: "OpenLake", run_id: str, profile: str, as_json: bool) -> None:
    for news in opened.follow(run_id, profile=profile):
        print(json.dumps(news.as_dict()) if as_json else news.text(), flush=True)


def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT; `-` reads it from stdin.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read the SELECT from a file.")] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Only this run's rows; its id is $run in the SQL.", autocompletion=completion.runs),
    ] = None,
    param: Params = None,
    form: RowForm = None,
    vertical: Vertical = False,
    as_json: AsJson = False,
    output: RowOutput = None,
    csv_safe: CsvSafe = False,
    lake: LakePath = HERE,
) -> None:
    """Ask the lake in SQL (DuckDB): one SELECT, which can read this lake and nothing else.

    Without SQL in a terminal it is a small shell with history and completion.
    """
    from ..queries.sql_values import sql_values

    opened = open_lake(lake)
    chosen = "json" if as_json else form
    if query is None and file is None and sys.stdin.isatty() and sys.stdout.isatty():
        if chosen is not None or output is not None or param:
            raise UsageError("Give a SELECT: lake sql 'select count(*) from token_steps'.")
        from .toolkit.sql_shell import run_shell

        return run_shell(opened, run, vertical=vertical)
    statement = _statement(query, file)
    values = sql_values(statement, _params(param, None if run is None else opened.resolve_run(run)))
    # A file keeps the types of its columns; on a screen the values are all that there is.
    ask = opened.rows if output is None and chosen != "parquet" else opened.arrow
    return print_rows(lambda: ask(statement, values, run=run), chosen, output, vertical=vertical, csv_safe=csv_safe)


def _statement(query: str | None, file: Path | None) -> str:
    """The SQL from the argument, the file or stdin, exactly one of which is meant."""
    if query is not None and file is not None:
        raise UsageError("Give the SQL as an argument or as --file, not both.")
    if file is not None:
        if not file.is_file():
            raise NotFoundError(f"There is no file {file}.")
        return file.read_text(encoding="utf-8")
    if query is not None and query != "-":
        return query
    if sys.stdin.isatty():
        raise UsageError("Give a SELECT: lake sql 'select count(*) from token_steps'.")
    return sys.stdin.read()


def query(
    name: Annotated[
        str | None, typer.Argument(help="Saved query; without it all are listed.", autocompletion=completion.queries)
    ] = None,
    run: RunOption = None,
    param: Params = None,
    show_sql: Annotated[
        bool, typer.Option("--sql", help="Print its file, header included: a copy in LAKE/queries works.")
    ] = False,
    form: RowForm = None,
    vertical: Vertical = False,
    as_json: AsJson = False,
    output: RowOutput = None,
    csv_safe: CsvSafe = False,
    lake: LakePath = HERE,
) -> None:
    """Run a saved query, or list them all. Your own go into LAKE/queries/NAME.sql."""
    from ..lake.lake import Lake
    from ..queries import description
    from ..queries.saved_query import find, saved_queries

    if name is None:
        queries = saved_queries(Lake(lake), on_broken=lambda error: say(f"left out: {error}"))
        listed = [query.describe() for query in queries.values()]
        return print_json(listed) if as_json else print(description.query_list(listed))
    found = find(name, Lake(lake))
    if show_sql:
        return print_json(found.describe()) if as_json else print(found.text, end="")
    opened, params = open_lake(lake), _params(param, run)

    def answer() -> "pa.Table":
        rows = opened.query_arrow(name, **params)
        if not len(rows) and (reason := opened.why_no_rows(name, **params)):
            say(reason)
        return rows

    return print_rows(
        answer,
        "json" if as_json else form,
        output,
        vertical=vertical,
        csv_safe=csv_safe,
    )


def _params(pairs: list[str] | None, run: str | None) -> dict[str, str]:
    values: dict[str, str] = {} if run is None else {"run": run}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--param {pair!r}: write NAME=VALUE.")
        values[name.strip()] = value
    return values


def chart(
    name: Annotated[str, typer.Argument(help="Saved query that draws itself.", autocompletion=completion.charts)],
    run: RunOption = None,
    param: Params = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="FILE.png, .svg, .pdf, .html or .json.")] = None,
    theme: Annotated[str, typer.Option(help="light or dark.", autocompletion=completion.themes)] = "light",
    width: Annotated[int | None, typer.Option(min=40, max=10_000, help="Width of the plot in pixels.")] = None,
    height: Annotated[int | None, typer.Option(min=40, max=10_000, help="Height of the plot in pixels.")] = None,
    scale: Annotated[float, typer.Option(min=0.1, max=10, help="PNG only: pixels of the file per pixel.")] = 2.0,
    title: Annotated[str | None, typer.Option(help="Title; by default the query's own.")] = None,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Draw a saved query into a picture, an offline page or a Vega-Lite file.

    A query without rows writes no file, says why, and exits 3.
    """
    from ..queries.charts.chart import Shape
    from ..queries.charts.chart_file import check_target, save

    target = output or Path(f"{name}.png")
    check_target(target)
    shape = Shape(width, height, title)
    drawing = open_lake(lake).draw(name, theme=theme, shape=shape, params=_params(param, run))
    if drawing.message:
        say(drawing.message)
    save(drawing.chart, target, theme=theme, scale=scale)
    print_json({"query": name, "file": str(target), "message": drawing.message}) if as_json else print(target)
