"""The dashboard: a sidebar that chooses, and seven views of what was chosen."""

import os
from pathlib import Path

import streamlit as st

from ...lake.errors import LakeError
from ...lake.sql.duck import Connection
from ...lake.tables.run_row import RunRow
from ..queried_lake import QueriedLake
from ..saved_query import saved_queries
from .browse import IN_URL, Browse, shown_errors
from .parameters import parameter_widgets
from .text import literal
from .views.compare import compare_view
from .views.feature_view import feature_view
from .views.neuron_view import neuron_view
from .views.run_view import run_view
from .views.sequence_view import sequence_view
from .views.sql_view import sql_view

_WIDE = """<style>
.block-container { padding-top: 2.2rem; max-width: 1320px; }
h1 { font-size: 1.7rem !important; overflow-wrap: anywhere; }
[data-testid="stMetricLabel"] p { white-space: normal; font-size: 0.8rem; line-height: 1.2; }
[data-testid="stMetricLabel"] { min-height: 2.4rem; align-items: flex-start; }
[data-testid="stMetricValue"] { font-size: 1.55rem; font-variant-numeric: tabular-nums; }
/* A map keeps its proportions: where the window is narrower, it alone is moved, not the page. */
[data-testid="stElementContainer"]:has([data-testid="stVegaLiteChart"]) { max-width: 100%; overflow-x: auto; }
</style>"""


def main() -> None:
    """One pass: open the lake as it is now, read the sidebar, show the chosen view."""
    st.set_page_config(page_title="tracelake", layout="wide", initial_sidebar_state="auto")
    st.html(_WIDE)
    lake = None
    with shown_errors():
        lake = QueriedLake.open(os.environ.get("TRACELAKE_LAKE", "lakehouse"))
    if not isinstance(lake, QueriedLake):
        return
    with shown_errors(), lake.connect(locked=True) as connection:
        _show(lake, connection)


def _show(lake: QueriedLake, connection: Connection) -> None:
    found = connection.arrow("FROM runs WHERE status <> 'removed' ORDER BY created_at DESC, run_id DESC").to_pylist()
    with st.sidebar:
        st.markdown("#### tracelake")
        st.caption(literal(Path(lake.path).name))
        if not found:
            st.info("The lake has no runs yet. Collect one, then reload.")
            return
        labels = {run["run_id"]: _label(run) for run in found}
        run_id = st.selectbox("Run", list(labels), key="run", bind=IN_URL)
        st.caption(literal(labels[run_id]))
        view = st.radio("View", list(VIEWS), key="view", bind=IN_URL)
        profiles = [name for (name,) in connection.execute("SELECT profile FROM health_profiles").fetchall()]
        profile = st.selectbox(
            "Health profile", profiles, key="profile", help="Thresholds of the flags and of the risk.", bind=IN_URL
        )
    if run_id is None or view is None or profile is None:
        return
    theme = "dark" if getattr(st.context.theme, "type", None) == "dark" else "light"
    VIEWS[view](Browse(lake, connection, found, run_id, profile, theme))


def _label(run: RunRow) -> str:
    tag = f"tag {run['tag']}, " if run["tag"] else ""
    return f"{tag}{Path(run['model'] or 'unknown').name}, {run['n_sequences']:,} sequences, {run['status']}"


def charts_view(browse: Browse) -> None:
    """Any saved query with a chart, its parameters as widgets."""
    st.title("Charts")
    # One broken file of the user's must not take the other queries away.
    queries = saved_queries(browse.lake, on_broken=_warn)
    drawable = {name: query for name, query in queries.items() if query.has_chart}
    names = list(drawable)
    default = names.index("surprisal_trace") if "surprisal_trace" in names else 0
    name = st.selectbox("Saved query", names, index=default, key="query", bind=IN_URL)
    query = drawable[name]
    st.caption(literal(query.header.description))
    params = parameter_widgets(query, browse.run_id, browse.run_ids, _profiles(browse))
    if not browse.draw(query, params):
        browse.explain_absence(query, params)
        return
    given = "".join(f" --param {key}={value}" for key, value in params.items() if key != "run")
    st.code(f"lake chart {name} --run {browse.run_id}{given} -o {name}.png", language="sh")
    with st.expander("Rows"), shown_errors():
        st.dataframe(query.run(browse.connection, browse.lake.resolve_run, **params).to_arrow(), hide_index=True)
    with st.expander("SQL"):
        st.code(query.sql, language="sql")


def _warn(error: LakeError) -> None:
    st.warning(literal(error))


def _profiles(browse: Browse) -> list[str]:
    return [name for (name,) in browse.connection.execute("SELECT profile FROM health_profiles").fetchall()]


VIEWS = {
    "Run": run_view,
    "Sequence": sequence_view,
    "Feature": feature_view,
    "Neuron": neuron_view,
    "Charts": charts_view,
    "Compare": compare_view,
    "SQL": sql_view,
}
