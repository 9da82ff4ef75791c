"""One feature of an autoencoder that was applied to the run: its card, and where it is active, its token marked."""

import html

import streamlit as st

from ...cards.feature_card import FeatureCard, labelled_features, read_card
from ..browse import IN_URL, Browse, shown_errors
from ..text import literal

N_LISTED = 200
"""Features to choose from by name; any other by its number."""
_SAES = "SELECT sae_id, count(*) AS n FROM feature_stats WHERE run_id = $run GROUP BY sae_id ORDER BY sae_id"


def feature_view(browse: Browse) -> None:
    """The chosen feature of the chosen autoencoder on the chosen run."""
    st.title("Feature")
    sizes = dict(browse.connection.execute(_SAES, {"run": browse.run_id}).fetchall())
    if not sizes:
        st.info(literal(f"No autoencoder was applied to this run: `lake sae features SAE --run {browse.run_id}` does."))
        return
    sae = st.selectbox("Autoencoder", list(sizes), key="sae", bind=IN_URL)
    if sae is None:
        return
    best = [feature for _, feature in labelled_features(browse.connection, browse.run_id, N_LISTED, sae)]
    number = st.number_input(
        "Feature", 0, sizes[sae] - 1, best[0] if best else 0, key="feature", bind=IN_URL,
        help="Those whose rule holds best: " + ", ".join(map(str, best[:20])),
    )  # fmt: skip
    with shown_errors():
        _show(read_card(browse.connection, browse.run_id, sae, int(number)))
    browse.chart("feature_density", sae=sae)


def _show(card: FeatureCard) -> None:
    names, values = zip(*card.facts(), strict=True)
    st.dataframe({"name": names, "value": values}, hide_index=True)
    rows = [
        f"<tr><td>{one.activation:.3g}</td><td>{one.kind}</td><td>{one.sequence_id}:{one.position}</td>"
        f"<td style='white-space:pre-wrap;font-family:monospace'>{html.escape(one.before)}"
        f"<mark>{html.escape(one.token)}</mark>{html.escape(one.after)}</td></tr>"
        for one in card.marked(per_tenth=2, n_silent=3)
    ]
    st.html(f"<table><tbody>{''.join(rows)}</tbody></table>")
