"""A saved query's rows as an `altair.Chart` under the encoding of its header.

Data goes into the chart as inline values only: titles, axis titles and expressions never come from it.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import altair as alt

from ..lake.errors import UsageError
from .chart_rows import MAX_ROWS, chart_rows, check_fields
from .labels import is_plain, plain
from .plot import FACET_COLUMNS, Plot
from .saved_query import ResolveRun, SavedQuery, Value
from .theme import Theme, configuration, theme_called

if TYPE_CHECKING:
    import polars

    from ..lake.duck import Connection

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart


class Drawing(NamedTuple):
    """A chart, and what its reader must know about the rows (none left out: None)."""

    chart: AnyChart
    message: str | None


def draw(
    query: SavedQuery,
    connection: "Connection",
    resolve_run: ResolveRun | None = None,
    /,
    *,
    theme: str = "light",
    params: Mapping[str, object] | None = None,
) -> Drawing:
    """Run the query for a chart, with fewer rows where there are too many, and build it."""
    look = theme_called(theme)
    if not query.has_chart:
        check_fields(query, [])
    values = query.bind(connection, params or {}, resolve_run)
    drawn = chart_rows(query, connection, values)
    notes = [_parameters_note(query, values), *([drawn.message] if drawn.message else [])]
    return Drawing(build(query, drawn.rows, theme=look.name, notes=notes), drawn.message)


def build(query: SavedQuery, rows: "polars.DataFrame", *, theme: str = "light", notes: Sequence[str] = ()) -> AnyChart:
    """The chart of these rows; `notes` become its subtitle."""
    check_fields(query, rows.columns)
    if rows.height > MAX_ROWS:
        raise UsageError(
            f"Query {query.name!r}: {rows.height:,} rows are too many to draw (at most {MAX_ROWS:,}). "
            "Use draw(), which lets DuckDB make fewer of them, or narrow the query."
        )
    header, look = query.header, theme_called(theme)
    data = alt.Data(values=_values(rows, header.fields))  # type: ignore[call-arg]
    plot = Plot(header, rows, look)
    chart: AnyChart = alt.layer(*plot.layers(), data=data).properties(**plot.size())
    facet = header.channels.get("facet")
    if facet:
        chart = chart.facet(
            facet=alt.Facet(
                field=facet.field, type=facet.type, title=facet.title, sort=plot.order(facet), header=alt.Header()
            ),
            columns=min(FACET_COLUMNS, plot.count(facet)),
        )
        if "free" in header.scales.get("y", ()):
            chart = chart.resolve_scale(y="independent")
    title = header.title or query.name.replace("_", " ")
    subtitle = [line for note in notes if note for line in textwrap.wrap(note, 100)]
    chart = chart.properties(title=alt.TitleParams(title, subtitle=subtitle) if subtitle else alt.TitleParams(title))
    return themed(chart, look)


def themed(chart: AnyChart, theme: Theme) -> AnyChart:
    """The chart with a look of its own, so that no global registration is needed."""
    return chart.configure(**configuration(theme))


def _parameters_note(query: SavedQuery, values: Mapping[str, Value]) -> str:
    """`run sampled-01 · sequence 3`: ids and numbers only, text that a user typed stays out of titles."""
    given = [(name, str(value)) for name, value in values.items() if value is not None]
    return " \u00b7 ".join(f"{name} {text}" for name, text in given if is_plain(text))


def _values(rows: "polars.DataFrame", fields: list[str]) -> list[dict[str, object]]:
    """The named columns as JSON values: no NaN, no infinity, times as text, token text visible."""
    return [{name: plain(value) for name, value in row.items()} for row in rows.select(fields).to_dicts()]
