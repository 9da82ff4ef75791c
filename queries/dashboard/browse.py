"""What every view of the dashboard shares: the open lake, the chosen run, how charts and errors are shown."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

from ...lake.errors import LakeError
from ...lake.values import Json, Row
from ..charts.absence import DISTRIBUTION, KEPT, not_kept, why_empty
from ..charts.chart import Shape
from ..charts.chart_rows import chart_rows
from ..description import describe_schema
from ..report.figures import Spec, chart_spec, full_width, is_square
from ..saved_query import SavedQuery, find
from .text import literal

if TYPE_CHECKING:
    import polars

    from ...lake.sql.duck import Connection
    from ...lake.tables.run_row import RunRow
    from ..queried_lake import QueriedLake

SHOWN_ROWS = 5_000
IN_URL: Literal["query-params"] = "query-params"
"""What a widget is set to stands in the address, so that a link and a reload come back to it."""
NARROW = Shape(text_width=290)
"""Vega cuts a title that is wider than the plot, which is this narrow in two columns at 1280 pixels."""
Change = Callable[[Spec], Spec]
"""Something done to a chart before it is shown."""


@dataclass
class Browse:
    """One pass of the script: the lake behind its locked connection, and what the sidebar says."""

    lake: "QueriedLake"
    connection: "Connection"
    runs: "list[RunRow]"
    run_id: str
    profile: str
    theme: str

    @property
    def run_ids(self) -> list[str]:
        """Every run that can be chosen, newest first."""
        return [run["run_id"] for run in self.runs]

    def chart(self, name: str, *changes: Change, **params: Any) -> bool:
        """Draw one of the package's saved queries; False where it has no rows."""
        return self.draw(find(name), {"run": self.run_id, **params}, *changes)

    def draw(self, query: SavedQuery, params: Json, *changes: Change) -> bool:
        """Draw a saved query for these parameters; False where it has no rows, a message where it fails."""
        with shown_errors():
            values = query.bind(self.connection, params, self.lake.resolve_run)
            drawn = chart_rows(query, self.connection, values)
            if drawn.rows.height == 0:
                return False
            show_chart(drawn.query, drawn.rows, self.theme, drawn.message, *changes)
            return True
        return True

    def explain_absence(self, query: SavedQuery, params: Json) -> None:
        """Says why a chart has no rows."""
        values = query.bind(self.connection, params, self.lake.resolve_run)
        unmeasured = self.lake.run_json(self.run_id).get("unmeasured") or {}
        reason = why_empty(query, self.connection, values, unmeasured)
        st.info(literal(reason or "No rows for these parameters: what the chart shows does not occur in this run."))

    def verdicts(self) -> "polars.DataFrame":
        """Saved query `health` of the chosen run, computed once for what is committed now."""
        committed = next(run["n_tokens"] for run in self.runs if run["run_id"] == self.run_id)
        return _verdicts(self.connection, str(self.lake.path), self.run_id, self.profile, committed)

    def rows(self, sql: str, **params: Any) -> "polars.DataFrame":
        """The rows of one of our own SELECTs."""
        return self.connection.sql(sql, params or None)


@st.cache_data(show_spinner=False)
def described_schema() -> list[Row]:
    """The schema, which does not change while the program runs."""
    return describe_schema()


@st.cache_resource(show_spinner=False, max_entries=8)
def _verdicts(_connection: "Connection", lake: str, run_id: str, profile: str, committed: int) -> "polars.DataFrame":
    """The rows; the arguments after the connection are what they depend on."""
    return find("health").run(_connection, run=run_id, profile=profile)


def show_chart(
    query: SavedQuery, rows: "polars.DataFrame", theme: str, message: str | None = None, *changes: Change
) -> None:
    """The chart of these rows, as wide as its column unless it has panels of its own size."""
    spec = full_width(chart_spec(query, rows, theme, [message] if message else [], shape=NARROW))
    for change in changes:
        spec = change(spec)
    st.vega_lite_chart(spec=_own_data(spec), theme=None, width="content" if _has_own_size(spec) else "stretch")


def _has_own_size(spec: Spec) -> bool:
    """Panels, and maps whose proportions mean something."""
    return "facet" in spec or is_square(spec)


def _own_data(spec: Spec) -> Spec:
    """The chart with its rows one level down: Streamlit would draw it without rows first, which log scales cannot."""
    if _has_own_size(spec):
        return spec | {"autosize": {"type": "pad"}}  # Streamlit would squeeze words and legend into the map's sides
    outer = {name: value for name, value in spec.items() if name not in ("data", "layer")}
    outer["autosize"] = {"type": "fit-x", "contains": "padding"}  # Streamlit would squeeze the height too
    return outer | {"layer": [{"data": spec["data"], "layer": spec["layer"]}]}


@contextmanager
def shown_errors() -> Iterator[None]:
    """A mistake in what was entered is shown where the result would stand."""
    try:
        yield
    except LakeError as error:
        st.error(literal(error), icon=":material/error:")


def unkept(table: str, browse: Browse) -> None:
    """Says what would fill an empty place."""
    reason = (browse.lake.run_json(browse.run_id).get("unmeasured") or {}).get(table)
    words = KEPT.get(table, DISTRIBUTION)
    st.info(literal(not_kept(*words, reason)), icon=":material/info:")
