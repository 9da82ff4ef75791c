"""One run: its numbers, its sequences under a condition in SQL, its charts."""

from typing import TYPE_CHECKING

import streamlit as st

from ...charts.absence import not_kept
from ...report.facts import model_facts, overview, run_row, settings, tiles
from ..browse import IN_URL, SHOWN_ROWS, Browse, shown_errors
from ..proposals import propose_names
from ..text import literal

if TYPE_CHECKING:
    import polars

CONDITION = "condition"
CHOSEN_SEQUENCES = f"""
    SELECT
        sequence_id, correct, predicted_answer, answer, n_prompt_tokens AS prompt_tokens,
        n_generated_tokens AS generated_tokens, finish_reason,
        left(prompt, 200) AS prompt, left(completion, 200) AS completion
    FROM sequences
    WHERE run_id = $run AND (
-- the condition may end in a comment
{{condition}}
    )
    ORDER BY sequence_id
    LIMIT {SHOWN_ROWS + 1}
"""
_GRID = (
    ("health_overview", "risk_by_outcome"),
    ("entropy_by_step", "surprisal_by_position"),
    ("layer_norms", "layer_change"),
    ("attention_entropy_by_head", "attention_weight_by_head"),
    ("confidence_calibration", "time_accounts"),
)
_BY_PROFILE = ("health_overview", "risk_by_outcome")


def run_view(browse: Browse) -> None:
    """The chosen run."""
    st.title(literal(browse.run_id))
    show_tiles(browse, browse.run_id)
    with st.expander("Model and settings"):
        run = run_row(browse.connection, browse.run_id)
        pairs = [*model_facts(run), *settings(run)]
        st.dataframe({"name": [name for name, _ in pairs], "value": [value for _, value in pairs]}, hide_index=True)
    _sequences(browse)
    for names in _GRID:
        columns = st.columns(2, gap="large")
        for name, column in zip(names, columns, strict=True):
            with column:
                browse.chart(name, **({"profile": browse.profile} if name in _BY_PROFILE else {}))


def show_tiles(browse: Browse, run_id: str) -> None:
    """The numbers of a run, in a row."""
    shown = tiles(overview(browse.connection, run_id))
    for column, tile in zip(st.columns(len(shown)), shown, strict=True):
        column.metric(tile["name"], tile["value"], help=tile["note"], border=True)


def _sequences(browse: Browse) -> None:
    rows = filtered(browse)
    if rows is None:
        return
    risk = browse.verdicts()
    shown = rows.head(SHOWN_ROWS).join(
        risk.select("sequence_id", "risk_v05", "risk_v05_factors"), on="sequence_id", how="left", maintain_order="left"
    )
    front = ["sequence_id", "risk_v05", "correct"]
    shown = shown.select(*front, *(name for name in shown.columns if name not in front))
    risk_column = st.column_config.NumberColumn("risk", format="%.2f")
    st.dataframe(shown.to_arrow(), hide_index=True, height=280, column_config={"risk_v05": risk_column})
    more = f"More than {SHOWN_ROWS:,}, the first are shown" if rows.height > SHOWN_ROWS else f"{rows.height:,}"
    st.caption(f"{more} sequences; risk under profile {literal(browse.profile)}.")
    if risk["risk_v05"].null_count() == risk.height:
        sentence = not_kept("What the risk is made of", "tokens,layers,heads")
        st.info(literal(sentence), icon=":material/info:")


def filtered(browse: Browse) -> "polars.DataFrame | None":
    """The run's sequences under the condition that the user types; None if it is wrong, which is shown."""
    condition = st.text_input(
        "Only sequences where (SQL)",
        key=CONDITION,
        bind=IN_URL,
        placeholder="not correct and n_generated_tokens > 20",
        help="A condition over the columns of `sequences`; docs/schema.md lists them.",
    )
    propose_names("Only sequences where (SQL)", only="sequences")
    with shown_errors():
        return browse.rows(CHOSEN_SEQUENCES.format(condition=condition.strip() or "true"), run=browse.run_id)
    return None
