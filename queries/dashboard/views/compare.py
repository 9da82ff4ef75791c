"""Two runs side by side: numbers, distributions, flags, and prompt by prompt."""

import streamlit as st

from ...report.facts import overview, wilson
from ...report.figures import with_legend_above
from ..browse import IN_URL, Browse, Change
from ..text import literal

_ROWS = (
    ("sequences", "sequences", "{:,.0f}"),
    ("prompts", "prompts", "{:,.0f}"),
    ("generated tokens", "generated_tokens", "{:,.0f}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("entropy, generated (bits)", "mean_generated_entropy_bits", "{:.3f}"),
    ("surprisal, generated (bits)", "mean_generated_surprisal_bits", "{:.3f}"),
    ("surprisal, prompt (bits)", "mean_prompt_surprisal_bits", "{:.3f}"),
    ("cut by length", "share_cut_by_length", "{:.1%}"),
)


def compare_view(browse: Browse) -> None:
    """The chosen run beside another."""
    st.title("Compare")
    others = [run for run in browse.run_ids if run != browse.run_id]
    if not others:
        st.info("The lake has one run only; collect another to compare.")
        return
    other = st.selectbox("With run", others, key="other", bind=IN_URL)
    _numbers(browse, other)
    for column, measure in zip(st.columns(2, gap="large"), ("entropy_bits", "surprisal_bits"), strict=True):
        with column:
            if not browse.chart(
                "distribution_comparison", with_legend_above, _titled(measure), other=other, measure=measure
            ):
                st.info("Neither run kept the distribution of its generated tokens.")
    left, right = st.columns(2, gap="large")
    with left:
        if not browse.chart("health_comparison", with_legend_above, other=other, profile=browse.profile):
            st.info("Neither run kept enough to be judged.")
    with right:
        if not browse.chart("two_run_comparison", with_legend_above, other=other):
            st.info("The runs share no prompts, so nothing can be matched prompt by prompt.")


def _titled(measure: str) -> Change:
    words = f"{measure.removesuffix('_bits').capitalize()} of generated tokens (bits)"
    return lambda spec: spec | {"title": {"text": words}}


def _numbers(browse: Browse, other: str) -> None:
    found = [overview(browse.connection, run) for run in (browse.run_id, other)]
    table = {"": [name for name, _, _ in _ROWS]}
    for run, row in zip((browse.run_id, other), found, strict=True):
        table[run] = ["\u2013" if row[key] is None else form.format(row[key]) for _, key, form in _ROWS]
    st.dataframe(table, hide_index=True)
    graded = [(row["accuracy"], row["graded"]) for row in found]
    if all(n for _, n in graded):
        intervals = [wilson(share, n) for share, n in graded]
        words = [f"{low:.0%}\u2013{high:.0%} (n = {n})" for (low, high), (_, n) in zip(intervals, graded, strict=True)]
        st.caption(literal(f"95 % intervals of the accuracy: {words[0]} and {words[1]}."))
