"""What the health views say of a run's sequences, as a report words it; the numbers come from saved query `health`."""

from collections import Counter
from typing import TYPE_CHECKING

from ...lake.values import Json, Row
from .facts import shown

if TYPE_CHECKING:
    import polars

    from ...lake.sql.duck import Connection

MOST_ROWS = 12

# The words of the view `sequence_flags`, which charts count; a test compares the two.
_FLAGS = {
    "is_broken": "broken",
    "has_nan": "NaN",
    "has_inf": "Inf",
    "repetition_loop": "repetition loop",
    "mid_layer_anomaly": "mid-layer anomaly",
    "attention_collapse": "attention collapse",
}
_ABOUT = """
    SELECT sequence_id, finish_reason, correct, n_prompt_tokens, n_generated_tokens
    FROM sequences
    WHERE run_id = $run AND list_contains($ids::BIGINT[], sequence_id)
"""


def flags(verdict: Row) -> list[str]:
    """The flags that are set, with where they begin."""
    found = [word for name, word in _FLAGS.items() if verdict[name]]
    if verdict["repetition_loop"] and verdict["repetition_first_position"] is not None:
        found[found.index("repetition loop")] += f" from position {verdict['repetition_first_position']}"
    if verdict["high_entropy_steps"]:
        n = verdict["high_entropy_steps"]
        found.append(f"{n} high-entropy step" + ("s" if n > 1 else ""))
    if verdict["compound_signals"]:
        found.append(f"compound signal: {verdict['compound_signals'].replace('_', ' ')}")
    return found


def outcome(correct: bool | None) -> str:
    """`correct`, `wrong` or `ungraded`."""
    return "ungraded" if correct is None else "correct" if correct else "wrong"


def health_section(connection: "Connection", run_id: str, verdicts: "polars.DataFrame") -> Json:
    """The riskiest sequences, how many there are, and why what could not be judged could not."""
    top = list(verdicts.head(MOST_ROWS).iter_rows(named=True))
    found = connection.arrow(_ABOUT, {"run": run_id, "ids": [row["sequence_id"] for row in top]})
    about = {row["sequence_id"]: row for row in found.to_pylist()}
    reasons = Counter(reason for text in verdicts["reason"].drop_nulls() for reason in text.split("; "))
    return {
        "rows": [_row(row, about[row["sequence_id"]]) for row in top],
        "total": verdicts.height,
        "reasons": sorted(reasons.items(), key=lambda item: (-item[1], item[0])),
        "judged": verdicts.height - verdicts["risk_v05"].null_count(),
        "flagged": sum(bool(flags(row)) for row in verdicts.iter_rows(named=True)),
    }


def _row(verdict: Row, about: Row) -> Row:
    return {
        **about,
        "finish_reason": shown(about["finish_reason"] or ""),
        "outcome": outcome(about["correct"]),
        "risk": verdict["risk_v05"],
        "warning": verdict["early_warning_v05"],
        "flags": flags(verdict),
        "factors": (verdict["risk_v05_factors"] or "").replace("_", " "),
    }
