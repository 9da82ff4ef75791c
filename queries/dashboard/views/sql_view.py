"""Any SELECT over the lake, through the connection that can do nothing else; the rows can be drawn and downloaded."""

from pathlib import PurePath
from typing import TYPE_CHECKING

import streamlit as st

from ...header import MARKS, parse_header
from ...results.formats import render
from ...saved_query import SavedQuery
from ..browse import IN_URL, SHOWN_ROWS, Browse, described_schema, show_chart, shown_errors
from ..proposals import propose_names
from ..text import literal

if TYPE_CHECKING:
    import polars

_START = """SELECT t.step, avg(t.entropy_bits) AS entropy_bits, count(*) AS tokens
FROM token_steps AS t
JOIN sequences AS s USING (run_id, sequence_id)
WHERE t.run_id = '{run}' AND t.step IS NOT NULL
GROUP BY t.step
ORDER BY t.step"""


def sql_view(browse: Browse) -> None:
    """A SELECT, its rows, and a chart of two or three of its columns."""
    st.title("SQL")
    left, right = st.columns([3, 2], gap="large")
    with left, st.form("sql"):
        start = _START.format(run=browse.run_id)
        statement = st.text_area("One SELECT", start, height=250, key="statement", bind=IN_URL)
        propose_names("One SELECT")
        st.form_submit_button("Run", type="primary")
    with right:
        _schema()
    rows = None
    with shown_errors():
        rows = _rows(browse, statement)
    if rows is None:
        return
    shown = rows.head(SHOWN_ROWS)
    st.dataframe(shown.to_arrow(), hide_index=True, height=300)
    more = f"The first {SHOWN_ROWS:,} rows are shown" if rows.height > SHOWN_ROWS else f"{rows.height:,} rows"
    left, right = st.columns([4, 1])
    left.caption(f"{more}. The same in a terminal: lake sql")
    right.download_button("Download CSV", render(shown.to_arrow(), "csv"), "rows.csv", "text/csv", width="stretch")
    _chart(shown, browse.theme)


def _schema() -> None:
    """Every table and view, and the columns of the chosen one with their meaning."""
    tables = {table["table"]: table for table in described_schema()}
    name = st.selectbox("Tables and columns", list(tables), key="table", bind=IN_URL)
    if name is None:
        return
    st.caption(literal(tables[name]["doc"]))
    columns = [
        {"column": column["name"], "type": column["type"] or "", "unit": column["unit"] or "", "meaning": column["doc"]}
        for column in tables[name]["columns"]
    ]
    st.dataframe(columns, hide_index=True, height=250)


def _rows(browse: Browse, statement: str) -> "polars.DataFrame":
    """The rows, read no further than what is shown."""
    import polars as pl
    import pyarrow as pa

    batches, count = [], 0
    for batch in browse.connection.batches(statement, rows=SHOWN_ROWS + 1):
        batches.append(batch)
        count += batch.num_rows
        if count > SHOWN_ROWS:
            break
    # A reader of no batches has no columns either; the whole answer, which is empty, has.
    frame = pl.from_arrow(pa.Table.from_batches(batches) if batches else browse.connection.arrow(statement))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _chart(rows: "polars.DataFrame", theme: str) -> None:
    types = {name: _type(kind) for name, kind in rows.schema.items() if name.isidentifier() and name.isascii()}
    if rows.height == 0 or len(types) < 2:
        return
    names = list(types)
    mark, x, y, color = st.columns(4)
    chosen = {
        "mark": mark.selectbox("Mark", MARKS, key="mark", bind=IN_URL),
        "x": x.selectbox("x", names, key="x", bind=IN_URL),
        "y": y.selectbox("y", names, index=1, key="y", bind=IN_URL),
        "color": color.selectbox("Colour", ["", *names], key="color", bind=IN_URL),
    }
    lines = ["-- Rows of a statement.", "-- title: Result", f"-- mark: {chosen['mark']}"]
    lines += [
        f"-- {channel}: {chosen[channel]}:{types[chosen[channel]]}"
        for channel in ("x", "y", "color")
        if chosen[channel]
    ]
    lines.append(f"-- tooltip: {', '.join(names)}")
    with shown_errors():
        file = PurePath("sql")
        show_chart(SavedQuery("sql", "lake", file, "", parse_header("\n".join(lines), file)), rows, theme)


def _type(kind: "polars.DataType") -> str:
    """How a column is drawn: numbers and times on a scale, everything else by name."""
    return "Q" if kind.is_numeric() else "T" if kind.is_temporal() else "N"
