"""The tokens of one sequence as a page shows them: text, colours, and what stands in the panel beside them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...lake.values import Row
from ..charts.axis_titles import visible

if TYPE_CHECKING:
    from ...lake.sql.duck import Connection

Vocabulary = Callable[[list[int]], Mapping[int, str]]
"""Texts of token ids that the lake itself never saw; ids may be missing from the answer."""

HEAD, TAIL = 200, 1_800
"""Tokens shown from the beginning and the end of a sequence; what lies between is left out, and it is said."""
MOST_TOPK, LONGEST_TEXT = 10, 200
REPLACEMENT = "\ufffd"
"""What pieces of a character show for their bytes."""

_TOKENS = """
    SELECT
        position, step, token_id, token, logprob, surprisal_bits, entropy_bits, rank, top1_prob, margin,
        topk_ids[1:$topk] AS topk_ids, topk_logprobs[1:$topk] AS topk_logprobs,
        lag(char_end, 1, 0) OVER (PARTITION BY step IS NULL ORDER BY position) AS char_start, char_end
    FROM token_steps
    WHERE run_id = $run AND sequence_id = $sequence
    QUALIFY position < $head OR position >= max(position) OVER () + 1 - $tail
    ORDER BY position
"""
_SOURCES = """
    SELECT coalesce(rendered_prompt, prompt), completion
    FROM sequences
    WHERE run_id = $run AND sequence_id = $sequence
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
    """What to show, and the data of the panel beside it as columns, one value per token.

    A span is a token, or the tokens that a character is written with, which is shown once: its text, the index `first`
    of its tokens and how many they are, colour strengths 0 to 1 (of the strongest), and whether it was generated.
    """

    spans: list[Row]
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
    sources = connection.execute(_SOURCES, {"run": run_id, "sequence": sequence}).fetchall()
    return TokenView(
        spans=_spans(rows, sources[0] if sources else (None, None), scale),
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


def _spans(rows: list[Row], sources: Sequence[str | None], scale: Scales) -> list[Row]:
    """Spans of the tokens `rows`; `sources`: the texts of the prompt and of the completion."""
    spans, expected, first = [], 0, 0
    while first < len(rows):
        row = rows[first]
        text, count = _shown(rows, first, sources[row["step"] is not None])
        group = rows[first : first + count]
        spans.append(
            {
                "text": flowing(text),
                "first": first,
                "count": count,
                "surprisal": _strongest([_strength(one["surprisal_bits"], scale.surprisal_bits) for one in group]),
                "entropy": _strongest([_strength(one["entropy_bits"], scale.entropy_bits) for one in group]),
                "generated": row["step"] is not None,
                "gap": row["position"] - expected,
            }
        )
        expected, first = group[-1]["position"] + 1, first + count
    return spans


def _shown(rows: list[Row], first: int, source: str | None) -> tuple[str, int]:
    """The text to show at a token and how many tokens it stands for: pieces of a character show the character.

    In the prompt, all pieces of a character end where it does. In a completion it is complete with its last piece.
    """
    row = rows[first]
    if source is None or row["char_end"] is None or not _is_piece(row):
        return row["token"] or "", 1
    last, start, in_prompt = first, row["char_start"], row["step"] is None
    if in_prompt and start == row["char_end"]:
        start -= 1  # the token before it, a space that is put before a text, has the place of its first character
    while last + 1 < len(rows) and _continues(rows[last], rows[last + 1]):
        end, following = rows[last]["char_end"], rows[last + 1]["char_end"]
        if (following != end) if in_prompt else (end > start):
            break
        last += 1
    return source[max(0, start) : rows[last]["char_end"]] or REPLACEMENT, last + 1 - first


def _is_piece(row: Row) -> bool:
    """Whether a token holds bytes of a character that is not whole in it."""
    return REPLACEMENT in (row["token"] or REPLACEMENT)


def _continues(row: Row, following: Row) -> bool:
    """Whether both are pieces, one after the other, of the prompt or of the completion."""
    adjacent = following["position"] == row["position"] + 1 and (following["step"] is None) == (row["step"] is None)
    return adjacent and _is_piece(following) and following["char_end"] is not None


def _strongest(strengths: list[float | None]) -> float | None:
    return max((strength for strength in strengths if strength is not None), default=None)


def _strength(bits: float | None, full: float) -> float | None:
    if bits is None or not math.isfinite(bits):
        return None
    return round(min(1.0, max(0.0, bits / full)), 3)


def _columns(rows: list[Row]) -> dict[str, list[Any]]:
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
