"""A saved query's rows as an `altair.Chart` under the encoding of its header.

Data goes into the chart as inline values only: titles, axis titles and expressions never come from it.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import altair as alt
from altair.utils.schemapi import debug_mode

from ...lake.errors import NotFoundError, UsageError
from ...lake.values import Json
from ..header import Header, Value
from ..saved_query import ResolveRun, SavedQuery
from .axis_titles import are_text, category, is_plain, plain, wrapped
from .chart_rows import MAX_ROWS, chart_rows, check_fields
from .grid import with_edges
from .plot import FACET_COLUMNS, WIDTH, Plot
from .theme import Theme, configuration, theme_called

if TYPE_CHECKING:
    import polars

    from ...lake.sql.duck import Connection

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart


class NoRowsError(NotFoundError):
    """A query has no rows for its parameters, so there is nothing to draw."""


@dataclass(frozen=True)
class Shape:
    """What a caller may set: pixels of the plot, the title, and the pixels that title and subtitle may take."""

    width: int | None = None
    height: int | None = None
    title: str | None = None
    text_width: float | None = None


class Drawing(NamedTuple):
    """A chart, and what its reader must know about the rows (none left out: None)."""

    chart: AnyChart
    message: str | None


class Rows:
    """A chart's rows, which Altair takes as they are: it looks at every value of a list, whenever it copies a chart."""

    _schema: ClassVar[Json] = {"type": "array"}

    def __init__(self, values: list[dict[str, object]]) -> None:
        self.values = values

    def to_dict(self) -> list[dict[str, object]]:
        return [dict(row) for row in self.values]


def draw(
    query: SavedQuery,
    connection: "Connection",
    resolve_run: ResolveRun | None = None,
    /,
    *,
    theme: str = "light",
    params: Mapping[str, object] | None = None,
    shape: Shape | None = None,
) -> Drawing:
    """Run the query for a chart, with fewer rows where there are too many, and build it; NoRowsError without rows."""
    look = theme_called(theme)
    if not query.has_chart:
        check_fields(query, [])
    values = query.bind(connection, params or {}, resolve_run)
    drawn = chart_rows(query, connection, values)
    if drawn.rows.height == 0:
        raise NoRowsError(
            f"Query {query.name!r} has no rows to draw{_for(values)}.{' ' + drawn.message if drawn.message else ''}"
        )
    notes = [_parameters_note(query, values), *([drawn.message] if drawn.message else [])]
    return Drawing(build(drawn.query, drawn.rows, theme=look.name, notes=notes, shape=shape), drawn.message)


def _for(values: Mapping[str, Value]) -> str:
    given = [f"{name} {value}" for name, value in values.items() if value is not None]
    return f" for {', '.join(given)}" if given else ""


def build(
    query: SavedQuery,
    rows: "polars.DataFrame",
    *,
    theme: str = "light",
    notes: Sequence[str] = (),
    shape: Shape | None = None,
) -> AnyChart:
    """The chart of these rows; `notes` become its subtitle."""
    check_fields(query, rows.columns)
    if rows.height > MAX_ROWS:
        raise UsageError(
            f"Query {query.name!r}: {rows.height:,} rows are too many to draw (at most {MAX_ROWS:,}). "
            "Use draw(), which lets DuckDB make fewer of them, or narrow the query."
        )
    header, look = query.header, theme_called(theme)
    given = shape or Shape()
    plot = Plot(header, rows, look, room=given.width)
    values = _values(rows, header)
    with_edges(values, plot.grids, header, rows)
    title = given.title or header.title or query.name.replace("_", " ")
    with debug_mode(False):  # Altair takes most of its time to check what it is given; a test checks every chart
        size = plot.size() | {
            name: value for name, value in (("width", given.width), ("height", given.height)) if value
        }
        chart = _faceted(alt.layer(*plot.layers(), data=alt.Data(values=Rows(values)), **size), plot)  # type: ignore[call-arg]
        chart.title = _titles(title, [*notes, _band_note(header)], given.text_width or _text_width(size, header))
        return themed(chart, look)


def _faceted(chart: alt.LayerChart, plot: Plot) -> AnyChart:
    """The chart in panels, if the header wants some."""
    facet = plot.header.channels.get("facet")
    if facet is None:
        return chart
    panels = chart.facet(
        facet=alt.Facet(
            field=facet.field, type=facet.type, title=facet.title, sort=plot.order(facet), header=alt.Header()
        ),
        columns=min(FACET_COLUMNS, plot.count(facet)),
    )
    return panels.resolve_scale(y="independent") if "free" in plot.header.scales.get("y", ()) else panels


def _band_note(header: Header) -> str:
    """What the bands or bars around the values are."""
    if not header.band or not header.band_words:
        return ""
    return f"{'Bands' if header.mark in ('line', 'area') else 'Bars'}: {header.band_words}."


def _text_width(size: Json, header: Header) -> float:
    """Pixels that a title may take: the plot's width with its axis and legend."""
    width = size.get("width")
    return (
        WIDTH + 60.0
        if "facet" in header.channels or not isinstance(width, int | float)
        else max(float(width), 300) + 60
    )


def _titles(title: str, notes: Sequence[str], width: float) -> alt.TitleParams:
    """Title and subtitle on as many lines as they need."""
    subtitle = [line for note in notes if note for line in textwrap.wrap(note, max(24, int(width / 6.4)))]
    text = wrapped(title, max(16, int(width / 8.8)))
    return alt.TitleParams(text, subtitle=subtitle) if subtitle else alt.TitleParams(text)


def themed(chart: AnyChart, theme: Theme) -> AnyChart:
    """The chart with a look of its own, so that no global registration is needed."""
    with debug_mode(False):
        dressed: AnyChart = chart.copy(deep=False)
        dressed.config = alt.Config(**configuration(theme))
    return dressed


def _parameters_note(query: SavedQuery, values: Mapping[str, Value]) -> str:
    """`run sampled-01 · sequence 3`: ids and numbers only, text that a user typed stays out of titles."""
    given = [(name, str(value)) for name, value in values.items() if value is not None]
    return " \u00b7 ".join(f"{name} {text}" for name, text in given if is_plain(text))


def _values(rows: "polars.DataFrame", header: Header) -> list[dict[str, object]]:
    """The header's fields as JSON values: no NaN, no infinity, times as text, token text visible."""
    named = {encoding.field for encoding in header.channels.values() if encoding.type in ("nominal", "ordinal")}
    shown: dict[str, Callable[[object], object]] = dict.fromkeys(header.fields, plain)
    for name in named:
        shown[name] = partial(category, as_text=are_text(rows[name].unique().to_list()))
    return [{name: shown[name](value) for name, value in row.items()} for row in rows.select(header.fields).to_dicts()]
