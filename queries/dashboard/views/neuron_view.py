"""One neuron of the run's model: its card, its words and heads, and the problems where it does most."""

import streamlit as st

from ...cards.neuron_card import NeuronCard, NeuronGround, neuron_ground, read_neuron, strongest_neurons
from ..browse import IN_URL, Browse, shown_errors
from ..text import literal

N_LISTED, N_PROBLEMS = 12, 20
"""Strongest neurons that are named, and problems that are listed."""
_NEWEST_WORDS = """
SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses WHERE run_id = $run AND name = 'neuron-words'
"""


def neuron_view(browse: Browse) -> None:
    """The chosen neuron of the chosen layer."""
    st.title("Neuron")
    ground = neuron_ground(browse.connection, browse.run_id)
    if not ground.sizes:
        st.info(literal(
            "No neurons were looked at in this run: lake experiment neurons "
            f"{browse.run_id} ranks them, lake experiment second-order {browse.run_id} --direction ID says what each "
            "does through later heads."
        ))  # fmt: skip
        return
    if ground.about():
        st.caption(literal(" · ".join(f"{name} {value}" for name, value in ground.about())))
    layer = st.selectbox("Layer", list(ground.sizes), key="layer", bind=IN_URL)
    if layer is None:
        return
    _chosen(browse, ground, layer)
    left, right = st.columns(2, gap="large")
    with left:
        browse.chart("neuron_scatter", layer=layer)
    with right:
        browse.chart("second_order_by_layer")


def _chosen(browse: Browse, ground: NeuronGround, layer: int) -> None:
    strongest = [neuron for at, neuron in strongest_neurons(browse.connection, ground, N_LISTED) if at == layer]
    number = st.number_input(
        "Neuron", 0, ground.sizes[layer] - 1, strongest[0] if strongest else 0, key="neuron", bind=IN_URL,
        help="The strongest of the layer: " + ", ".join(map(str, strongest)),
    )  # fmt: skip
    with shown_errors():
        _show(browse, read_neuron(browse.connection, ground, layer, int(number), N_PROBLEMS))


def _words(browse: Browse, card: NeuronCard) -> None:
    """The chart, which is of the newest words of the run; a table where those are of effects on another direction."""
    if not card.words:
        return
    [newest] = browse.rows(_NEWEST_WORDS, run=browse.run_id)["analysis_id"]
    if newest == card.words[0]["analysis_id"]:
        browse.chart("neuron_words", layer=card.layer, neuron=card.neuron)
    else:
        st.dataframe([{name: row[name] for name in ("word", "coefficient", "explained")} for row in card.words])


def _show(browse: Browse, card: NeuronCard) -> None:
    names, values = zip(*card.facts(), strict=True)
    st.table({"name": list(map(literal, names)), "value": list(map(literal, values))})
    for sentence in card.missing():
        st.info(literal(sentence))
    left, right = st.columns(2, gap="large")
    with left:
        _words(browse, card)
    with right:
        if card.heads:
            st.caption("Through which later heads, largest first")
            st.dataframe(card.heads, hide_index=True)
    if card.problems:
        st.caption("The problems where it does most")
        st.dataframe(card.problems, hide_index=True)
