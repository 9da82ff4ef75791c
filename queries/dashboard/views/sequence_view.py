"""One sequence: its tokens with what stands behind each, its uncertainty, layers and attention."""

import streamlit as st

from ....lake.values import Row
from ...charts.theme import theme_called
from ...report.figures import with_legend_above
from ...report.health import flags, outcome
from ...report.page import token_page
from ...report.tokens import scales, token_texts, token_view
from ..browse import IN_URL, Browse, unkept
from ..text import literal
from .run_view import filtered

TOKENS_HEIGHT = 500
"""Pixels of the frame: the panel with ten candidates; a longer text scrolls."""


def sequence_view(browse: Browse) -> None:
    """The chosen sequence of the chosen run."""
    st.title("Sequence")
    rows = filtered(browse)
    if rows is None:
        return
    if rows.height == 0:
        st.info("No sequence of this run meets the condition.")
        return
    labels = {row["sequence_id"]: _label(row) for row in rows.iter_rows(named=True)}
    sequence = st.selectbox("Sequence", list(labels), format_func=labels.__getitem__, key="sequence", bind=IN_URL)
    if sequence is None:
        return
    _facts(browse, sequence, labels[sequence])
    _tokens(browse, sequence)
    if not browse.chart("uncertainty_trace", sequence=sequence):
        unkept("token_steps", browse)
    maps = [
        browse.chart(name, with_legend_above, sequence=sequence) for name in ("norm_map", "cosine_map", "delta_map")
    ]
    if not any(maps):
        unkept("layer_summaries", browse)
    left, _ = st.columns([3, 2])
    with left:
        drawn = browse.chart("prompt_attention", sequence=sequence)
    if not drawn:
        unkept("attention_edges", browse)


def _label(row: Row) -> str:
    return f"{row['sequence_id']} \u00b7 {outcome(row['correct'])} \u00b7 {row['generated_tokens']} generated tokens"


def _facts(browse: Browse, sequence: int, label: str) -> None:
    for row in browse.verdicts().filter(sequence_id=sequence).iter_rows(named=True):
        found = ", ".join(flags(row)) or "no flag"
        risk = "risk not known" if row["risk_v05"] is None else f"risk {row['risk_v05']:.2f}"
        st.caption(literal(f"{label} \u00b7 {risk} \u00b7 {found} (profile {browse.profile})"))


def _tokens(browse: Browse, sequence: int) -> None:
    scale = scales(browse.connection, browse.run_id)
    view = token_view(browse.connection, browse.run_id, sequence, scale)
    texts = token_texts(browse.connection, browse.run_id, view.topk_ids)
    st.iframe(token_page(view, scale, texts, theme_called(browse.theme)), height=TOKENS_HEIGHT)
    if view.left_out:
        st.caption(f"{view.left_out:,} tokens in the middle are not shown.")
