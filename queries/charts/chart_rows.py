"""The rows that a chart draws: a saved query's own, or fewer made of them by DuckDB where there are too many.

The rule above MAX_ROWS rows:

* points: a repeatable random sample of the rows, so that a scatter stays a scatter;
* a numeric x axis: x is cut into at most MAX_BINS equal bins (whole numbers stay whole), fewer where many series share
  the chart, and the drawn numbers are averaged within each bin and series;
* anything else: the first rows in the query's own order.

What was done is said in `ChartRows.message`. Knows nothing of Altair.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...lake.errors import ConfigError, UsageError, did_you_mean
from ...lake.sql.quoting import quoted
from ..header import Value
from ..saved_query import SavedQuery
from .axis_titles import axis_title, visible

if TYPE_CHECKING:
    import polars

    from ...lake.sql.duck import Connection

MAX_ROWS = 5_000
MAX_BINS = 500
LONGEST_NOTICE = 240

_GROUPING = ("color", "facet", "detail", "size")


@dataclass(frozen=True)
class ChartRows:
    """Rows for a chart, its query with the parameters' values in its titles, and what its reader must know."""

    query: SavedQuery
    rows: "polars.DataFrame"
    message: str | None = None

    def noted(self, *messages: str | None) -> "ChartRows":
        """The same with further messages."""
        words = " ".join(filter(None, [self.message, *messages]))
        return replace(self, message=words or None)


def chart_rows(query: SavedQuery, connection: "Connection", values: Mapping[str, Value]) -> ChartRows:
    """Run `query` with values from `SavedQuery.bind` and return at most MAX_ROWS rows."""
    drawn = _few_rows(query, connection, values)
    titled = replace(drawn, query=query.titled(values))
    shown = _on_log_axes(titled)
    return shown.noted(_notice(shown))


def _few_rows(query: SavedQuery, connection: "Connection", values: Mapping[str, Value]) -> ChartRows:
    inner = f"({query.sql}\n)"
    rows = query.fetch(connection, f"SELECT * FROM {inner} LIMIT {MAX_ROWS + 1}", values)
    check_fields(query, rows.columns)
    if rows.height <= MAX_ROWS:
        return ChartRows(query, rows)
    if query.header.mark == "point":
        return _sampled(query, connection, values, inner)
    x, types = query.header.channels["x"], rows.schema
    numeric = types[x.field].is_numeric() and x.type in ("quantitative", "ordinal")
    binned = _binned(query, connection, values, inner, types) if numeric and query.header.mark != "path" else None
    if binned is not None and binned.rows.height <= MAX_ROWS:
        return binned
    message = f"Only the first {MAX_ROWS:,} rows are drawn; narrow the query to see all."
    return ChartRows(query, rows.head(MAX_ROWS), message)


def _on_log_axes(drawn: ChartRows) -> ChartRows:
    """Without the rows that a logarithmic axis has no place for, which would stand at its lower edge."""
    import polars as pl

    header, rows = drawn.query.header, drawn.rows
    for channel, words in header.scales.items():
        field = header.channels[channel].field
        if "log" not in words or not rows[field].dtype.is_numeric():
            continue
        positive = rows.filter(pl.col(field).is_null() | (pl.col(field) > 0))
        left_out = rows.height - positive.height
        if header.band and channel == "y":
            # The axis has no place for the end of an interval either.
            band = [pl.when(pl.col(name) > 0).then(pl.col(name)).alias(name) for name in header.band]
            positive = positive.with_columns(band)
        rows = positive
        if left_out:
            name = axis_title(field)
            drawn = drawn.noted(f"{left_out:,} rows are left out: {name} is not above 0, and its axis is logarithmic.")
    return replace(drawn, rows=rows)


def _notice(drawn: ChartRows) -> str | None:
    """What the query itself says about its rows."""
    name = drawn.query.header.notice
    if name is None:
        return None
    said = drawn.rows[name].drop_nulls().unique(maintain_order=True).head(3).to_list()
    return " ".join(visible(str(text))[:LONGEST_NOTICE] for text in said) or None


def check_fields(query: SavedQuery, columns: list[str]) -> None:
    """Every field that the header names must be a column: Altair would draw an empty chart without a word."""
    if not query.has_chart:
        raise UsageError(
            f"Query {query.name!r} has no chart (its header has no mark). `lake query {query.name}` shows its rows."
        )
    for name in query.header.fields:
        if name not in columns:
            raise ConfigError(
                f"{query.file}: the chart header names the field {name!r}, which is not a column of the result."
                f"{did_you_mean(name, columns)}"
            )


def _sampled(query: SavedQuery, connection: "Connection", values: Mapping[str, Value], inner: str) -> ChartRows:
    total = query.fetch(connection, f"SELECT count(*) AS n FROM {inner}", values)["n"].item()
    sample = f"SELECT * FROM {inner} USING SAMPLE reservoir({MAX_ROWS} ROWS) REPEATABLE (1)"
    return ChartRows(
        query, query.fetch(connection, sample, values), f"{MAX_ROWS:,} of {total:,} rows, drawn at random."
    )


def _binned(
    query: SavedQuery,
    connection: "Connection",
    values: Mapping[str, Value],
    inner: str,
    types: "polars.Schema",
) -> ChartRows:
    channels = query.header.channels
    x = quoted(channels["x"].field)
    whole = types[channels["x"].field].is_integer()
    series = _series(query, types)
    averaged = _averaged(query, types, series)
    keys = "".join(f", {name}" for name in series)
    # `width` of whole numbers is whole, so that no bin holds more values than its neighbour.
    width = "greatest(1, ceil((hi - lo + 1) / bins))" if whole else "(hi - lo) / bins"
    middle = "lo + cell * width" if whole else "lo + (cell + 0.5) * width"
    sql = f"""
        WITH base AS MATERIALIZED (SELECT * FROM {inner}),
        series AS (SELECT count(*) AS n FROM (SELECT DISTINCT 1{keys} FROM base)),
        span AS (
            SELECT min({x}) AS lo, max({x}) AS hi,
                greatest(1, least({MAX_BINS}, {MAX_ROWS} // (SELECT n FROM series))) AS bins
            FROM base WHERE isfinite({x}::DOUBLE)
        ),
        widths AS (SELECT lo::DOUBLE AS lo, bins, coalesce(nullif({width}, 0), 1)::DOUBLE AS width FROM span),
        cells AS (
            SELECT base.*, width, lo AS lo, least(floor(({x} - lo) / width), bins - 1) AS cell
            FROM base, widths WHERE isfinite({x}::DOUBLE)
        )
        SELECT {middle} AS {x}{keys}{"".join(averaged)}, count(*) AS rows_in_bin, any_value(width) AS bin_width
        FROM cells GROUP BY lo, width, cell{keys} ORDER BY {"".join(f"{name}, " for name in series)}1
    """
    rows = query.fetch(connection, sql, values)
    total, bins = int(rows["rows_in_bin"].sum()), rows[channels["x"].field].n_unique()
    kept = rows.drop("rows_in_bin")
    name = channels["x"].field
    message = f"{total:,} rows: means over {bins} bins of {name}, each {rows['bin_width'][0]:.4g} wide."
    return ChartRows(query, kept.cast({name: _polars_whole()}) if whole else kept, message)


def _series(query: SavedQuery, types: "polars.Schema") -> list[str]:
    """Columns that tell one series from another: what is not averaged and not x."""
    channels = query.header.channels
    grouping = [channels[name] for name in (*_GROUPING, "y") if name in channels]
    fields = [
        e.field for e in grouping if e.type in ("nominal", "ordinal", "temporal") or not types[e.field].is_numeric()
    ]
    if query.header.mark == "rect":  # the rows of a heat map are not averaged either, also where y is a number
        fields.append(channels["y"].field)
    return [quoted(name) for name in dict.fromkeys(fields) if name != channels["x"].field]


def _averaged(query: SavedQuery, types: "polars.Schema", series: list[str]) -> list[str]:
    """Means of the other numbers, NaN and infinity left out; text has no mean and is null."""
    taken = {*series, quoted(query.header.channels["x"].field)}
    names = [name for name in query.header.fields if quoted(name) not in taken]
    columns = []
    for name in names:
        column = quoted(name)
        if types[name].is_numeric():
            columns.append(f", avg({column}::DOUBLE) FILTER (WHERE isfinite({column}::DOUBLE)) AS {column}")
        else:
            columns.append(f", NULL AS {column}")
    return columns


def _polars_whole() -> "type[polars.Int64]":
    import polars as pl

    return pl.Int64
