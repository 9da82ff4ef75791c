"""A completion that came through an interface, in our words, and the rows that it becomes.

What an interface does not tell stays null; the reason is noted with the sequence, or once for the run.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, fsum, log2

from ...values import Columns, Row
from ..imported_rows import ImportedRows, Metrics, finite, jsonable

VERY_UNLIKELY = -9999.0
"""What interfaces write for a log-probability that is too small to tell."""
TOP10 = 10
UNMEASURED = {
    "token_steps.entropy_bits": "an interface gives the best tokens only, not the whole distribution",
    "token_steps.token_id": "given only where the interface names ids (vLLM return_tokens_as_token_ids, llama.cpp)",
    "token_steps.topk_ids": "given only where the interface names ids; the texts of other tokens are not stored",
    "layer_summaries": "an interface has no states",
    "head_summaries": "an interface has no attention",
}


@dataclass(frozen=True)
class Alternative:
    """One of the best tokens at a position; its log-probability is in nats."""

    text: str
    logprob: float
    token_id: int | None = None


@dataclass(frozen=True)
class ScoredToken:
    """One token with what the interface says of it; `data` are its bytes where they are given."""

    text: str
    logprob: float | None
    token_id: int | None = None
    data: bytes | None = None
    alternatives: tuple[Alternative, ...] = ()
    n_asked: int | None = None
    """How many of the best tokens were asked for; None where that is not known."""

    def best(self) -> list[Alternative]:
        """The best tokens by falling probability, without one that may be listed only because it was chosen.

        Some interfaces add the chosen token to the best ones: where it is the least of those listed, and not as many
        were asked for, it may have any rank. One with more than half of the probability is the best, listed or not.
        """
        listed = sorted(self.alternatives, key=lambda one: -one.logprob)
        if listed and self._is(listed[-1]) and len(listed) > (self.n_asked or 0):
            listed.pop()
        if not listed and self.logprob is not None and exp(self.logprob) > 0.5:
            return [Alternative(self.text, self.logprob, self.token_id)]
        return listed

    def rank(self, best: Sequence[Alternative]) -> int | None:
        """How many tokens are more probable; None where the chosen one is behind those that are known."""
        if self.logprob is None:
            return None
        known = any(self._is(one) for one in best) or (best and self.logprob >= best[-1].logprob)
        return sum(one.logprob > self.logprob for one in best) if known else None

    def _is(self, other: Alternative) -> bool:
        if self.token_id is not None and other.token_id is not None:
            return self.token_id == other.token_id
        return self.text == other.text and other.logprob == self.logprob


@dataclass(frozen=True)
class Completion:
    """One completion of one prompt. `missing` says of columns why they are null; `metrics` are further values."""

    model: str
    item_id: str
    sample: int
    prompt: str | None
    text: str
    tokens: tuple[ScoredToken, ...] | None
    """None if the interface gave no log-probabilities."""
    prompt_tokens: tuple[ScoredToken, ...] = ()
    n_prompt: int | None = None
    n_generated: int | None = None
    columns: Mapping[str, object] = field(default_factory=dict)
    """Values of further columns of `sequences`."""
    processed: bool = False
    """Whether log-probabilities are those of the distribution that was sampled from, not the raw one."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """Token rows that it becomes."""
        return len(self.prompt_tokens) + len(self.tokens or ())


def prompt_text(messages: object) -> str:
    """Messages as their canonical JSON, as `lake collect` stores them; a plain text as it is."""
    if isinstance(messages, str):
        return messages
    return json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def write_completion(rows: ImportedRows, sequence_id: int, completion: Completion) -> None:
    """Add the rows of one completion."""
    metrics, tokens = Metrics(rows, sequence_id), completion.tokens
    n_prompt = completion.n_prompt if completion.n_prompt is not None else len(completion.prompt_tokens)
    prompt = completion.prompt
    rows.add(
        "sequences",
        {
            "sequence_id": sequence_id,
            "prompt_id": None if prompt is None else hashlib.sha256(prompt.encode()).hexdigest()[:16],
            "item_id": completion.item_id,
            "item_offset": 0,
            "sample": completion.sample,
            "prompt": prompt,
            "completion": completion.text,
            "n_prompt_tokens": n_prompt,
            "n_generated_tokens": completion.n_generated if tokens is None else len(tokens),
            "metadata": json.dumps(jsonable(dict(completion.metadata)), ensure_ascii=False),
            **completion.columns,
        },
    )
    if completion.n_prompt is None and not completion.prompt_tokens:
        metrics.missing("sequences.n_prompt_tokens", "not said; positions count from the first generated token")
    for name, reason in completion.missing.items():
        metrics.missing(name, reason)
    for name, value in completion.metrics.items():
        metrics.add(name, value)
    if tokens is None:
        metrics.missing("token_steps", "no log-probabilities were asked for, so that no tokens are named")
        return
    first = n_prompt - len(completion.prompt_tokens)
    for index, token in enumerate(completion.prompt_tokens):
        _write_token(rows, metrics, completion, sequence_id, first + index, None, token, None)
    ends = character_ends(tokens, completion.text)
    if ends is None:
        metrics.missing("token_steps.char_end", "the tokens do not add up to the text of the completion")
    for step, token in enumerate(tokens):
        end = None if ends is None else ends[step]
        _write_token(rows, metrics, completion, sequence_id, n_prompt + step, step, token, end)


def _write_token(
    rows: ImportedRows,
    metrics: Metrics,
    completion: Completion,
    sequence_id: int,
    position: int,
    step: int | None,
    token: ScoredToken,
    char_end: int | None,
) -> None:
    best, logprob = token.best(), token.logprob
    row: Row = {
        "sequence_id": sequence_id,
        "position": position,
        "stack": "decoder",
        "step": step,
        "is_prompt": step is None,
        "is_forced": False,
        "token_id": token.token_id,
        "token": token.text,
        "char_end": char_end,
    }
    column = "sampling_logprob" if completion.processed else "logprob"
    if logprob is not None and not logprob > VERY_UNLIKELY:
        if step is not None:  # a metric has no place for tokens of the prompt
            metrics.missing(f"token_steps.{column}", "smaller than the interface tells (-9999)", step=step)
        logprob = None
    row[column] = logprob
    if not completion.processed:
        row["surprisal_bits"] = None if logprob is None else -logprob / _LN2 + 0.0
        row |= {"rank": token.rank(best) if logprob is not None else None, **_distribution(best)}
        if step is not None and best and (least := least_entropy([one.logprob for one in best])) is not None:
            metrics.add("entropy_bits_at_least", least, step=step)
    rows.add("token_steps", row)


_LN2 = 1 / log2(exp(1))


def _distribution(best: Sequence[Alternative]) -> Row:
    """Columns that the best tokens determine."""
    chances = [exp(one.logprob) for one in best]
    ids = [one.token_id for one in best]
    known = bool(best) and all(token_id is not None for token_id in ids)
    return {
        "top1_prob": chances[0] if chances else None,
        "margin": chances[0] - chances[1] if len(chances) > 1 else None,
        "top10_mass": min(1.0, fsum(chances[:TOP10])) if len(chances) >= TOP10 else None,
        "topk_ids": ids if known else None,
        "topk_logprobs": [one.logprob for one in best] if known else None,
    }


def least_entropy(logprobs: Sequence[float]) -> float | None:
    """The smallest entropy, in bits, that a distribution with these best tokens (falling) can have.

    What is left of the probability goes to tokens that are each at most as probable as the last one known.
    """
    chances = [exp(value) for value in logprobs]
    rest = 1.0 - fsum(chances)
    if not chances or chances[-1] <= 0:
        return None
    whole = int(max(0.0, rest) // chances[-1])
    parts = [*chances, *([chances[-1]] * min(whole, 10**6))]
    last = max(0.0, rest - whole * chances[-1])
    total = -fsum(p * log2(p) for p in parts if p > 0) - (last * log2(last) if last > 1e-9 else 0.0)
    return max(0.0, total)


def character_ends(tokens: Sequence[ScoredToken], text: str) -> list[int] | None:
    """Where in `text` each token ends, in characters; None where the tokens' bytes do not make it.

    Special tokens at the end may be missing from the text: they end where it ends.
    """
    data = [token.text.encode() if token.data is None else token.data for token in tokens]
    whole = text.encode()
    ends, grown = [], b""
    for piece in data:
        grown += piece
        inside = grown[: len(whole)]
        if not whole.startswith(inside):
            return None
        # Bytes of a character that is not complete yet add nothing.
        ends.append(len(inside.decode(errors="ignore")))
    extra = len(grown) - len(whole)
    is_special = extra > 0 and data and extra == len(data[-1])
    return ends if extra == 0 or is_special else None


def settings_columns(request: Mapping[str, object]) -> Columns:
    """Columns of `sequences` that a request's sampling settings give."""
    columns: Columns = {}
    for name in ("temperature", "top_p"):
        value = request.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            columns[name] = finite(float(value))[0]
    for name, low, high in (("top_k", 1, 2**31), ("seed", -(2**63), 2**63)):
        value = request.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value < high:
            columns[name] = value
    if columns.get("temperature") == 0:
        columns["origin"] = "greedy"
    elif "temperature" in columns:
        columns["origin"] = "sampled"
    return columns
