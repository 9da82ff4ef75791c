"""The tokens of one sequence as a page shows them: text, colours, and what stands in the panel beside them."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..labels import visible

if TYPE_CHECKING:
    from ...lake.duck import Connection

Vocabulary = Callable[[list[int]], Mapping[int, str]]
"""Texts of token ids that the lake itself never saw; ids may be missing from the answer."""

HEAD, TAIL = 200, 1_800
"""Tokens shown from the beginning and the end of a sequence; what lies between is left out, and it is said."""
MOST_TOPK, LONGEST_TEXT = 10, 200

_TOKENS = """
    SELECT
        position, step, token_id, token, logprob, surprisal_bits, entropy_bits, rank, top1_prob, margin,
        topk_ids[1:$topk] AS topk_ids, topk_logprobs[1:$topk] AS topk_logprobs
    FROM token_steps
    WHERE
        run_id = $run AND sequence_id = $sequence
        AND (position < $head OR position >= (
            SELECT max(position) + 1 - $tail FROM token_steps WHERE run_id = $run AND sequence_id = $sequence
        ))
    ORDER BY position
"""
_SCALES = """
    SELECT quantile_cont(surprisal_bits, 0.98), quantile_cont(entropy_bits, 0.98)
    FROM token_steps
    WHERE run_id = $run AND isfinite(surprisal_bits) AND isfinite(entropy_bits)
"""
_TEXTS = """
    SELECT token_id, any_value(token)
    FROM token_steps
    WHERE run_id = $run AND list_contains($ids::INTEGER[], token_id)
    GROUP BY token_id
"""


@dataclass(frozen=True)
class Scales:
    """The bits at which a token has the full colour: the 98th percentile of the run, at least 1."""

    surprisal_bits: float
    entropy_bits: float


@dataclass(frozen=True)
class TokenView:
    """Tokens to show (text, colour strengths 0 to 1, whether generated), and their panel's data as columns."""

    spans: list[dict[str, Any]]
    data: dict[str, list[Any]]
    has_distribution: bool
    left_out: int
    """Tokens between the beginning and the end that are not shown."""

    @property
    def first_generated(self) -> int:
        """Index of the span that is shown first: the first generated token, or the first one."""
        return next((i for i, span in enumerate(self.spans) if span["generated"]), 0)

    @property
    def topk_ids(self) -> set[int]:
        """Every token id that the panel names."""
        return {token for ids in self.data["topk"] for token in ids or ()}


def scales(connection: "Connection", run_id: str) -> Scales:
    """Colour scales of a run."""
    found = connection.execute(_SCALES, {"run": run_id}).fetchall()
    surprisal, entropy = found[0] if found else (None, None)
    return Scales(max(1.0, surprisal or 0.0), max(1.0, entropy or 0.0))


def token_view(connection: "Connection", run_id: str, sequence: int, scale: Scales) -> TokenView:
    """The tokens of one sequence."""
    values = {"run": run_id, "sequence": sequence, "head": HEAD, "tail": TAIL, "topk": MOST_TOPK}
    rows = connection.arrow(_TOKENS, values).to_pylist()
    return TokenView(
        spans=_spans(rows, scale),
        data=_columns(rows),
        has_distribution=any(row["entropy_bits"] is not None for row in rows),
        left_out=rows[-1]["position"] + 1 - len(rows) if rows else 0,
    )


def token_texts(
    connection: "Connection", run_id: str, ids: Iterable[int], vocabulary: Vocabulary | None = None
) -> dict[int, str]:
    """Visible texts of token ids: from the run's own tokens, then from `vocabulary` where it agrees with them."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    seen = dict(connection.execute(_TEXTS, {"run": run_id, "ids": wanted}).fetchall())
    if vocabulary is not None and len(seen) < len(wanted):
        given = vocabulary(wanted)
        # Another tokenizer under the same name would show wrong words; the tokens of the run are the proof.
        if all(given.get(token) == text for token, text in seen.items()):
            seen = {**given, **seen}
    return {token: visible(cut(seen[token])) for token in wanted if token in seen}


def _spans(rows: list[dict[str, Any]], scale: Scales) -> list[dict[str, Any]]:
    spans, expected = [], 0
    for row in rows:
        spans.append(
            {
                "text": flowing(row["token"] or ""),
                "surprisal": _strength(row["surprisal_bits"], scale.surprisal_bits),
                "entropy": _strength(row["entropy_bits"], scale.entropy_bits),
                "generated": row["step"] is not None,
                "gap": row["position"] - expected,
            }
        )
        expected = row["position"] + 1
    return spans


def _strength(bits: float | None, full: float) -> float | None:
    if bits is None or not math.isfinite(bits):
        return None
    return round(min(1.0, max(0.0, bits / full)), 3)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    numbers = ("logprob", "surprisal_bits", "entropy_bits", "top1_prob", "margin")
    return {
        "position": [row["position"] for row in rows],
        "step": [row["step"] for row in rows],
        "token_id": [row["token_id"] for row in rows],
        "token": [visible(cut(row["token"] or "")) for row in rows],
        "rank": [row["rank"] for row in rows],
        **{name: [short(row[name]) for row in rows] for name in numbers},
        "topk": [row["topk_ids"] for row in rows],
        "probs": [[short(_probability(value)) for value in row["topk_logprobs"] or ()] for row in rows],
    }


def _probability(logprob: float | None) -> float | None:
    return None if logprob is None else math.exp(logprob) if logprob <= 0 else 1.0


def short(value: float | None) -> float | None:
    """Four significant digits, to keep pages small; null where it is not finite."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None


def flowing(token: str) -> str:
    """Token text for running text: spaces stay spaces, a newline is shown and breaks the line."""
    return "".join(c if c == " " else visible(c) + ("\n" if c == "\n" else "") for c in cut(token)) or "\u2205"


def cut(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "\u2026"
