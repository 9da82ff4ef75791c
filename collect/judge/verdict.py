"""A reply as a verdict: strict JSON or none. What cannot be read is null with a reason, never `not distinct`."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What a judge says of two solutions."""

    distinct: bool | None
    reply: str | None
    """Its sentence; the reply itself where that is no verdict."""
    reason: str | None = None
    """Why there is no verdict."""


def read_verdict(text: str | None, finish_reason: str | None) -> Verdict:
    """The verdict in a reply."""
    if finish_reason == "length":
        return Verdict(None, text, "the reply was cut by its length")
    if not text or not text.strip():
        return Verdict(None, text, "the reply is empty")
    try:
        value = json.loads(text)
    except ValueError:
        return Verdict(None, text, "the reply is no JSON")
    if not isinstance(value, dict):
        return Verdict(None, text, "the reply is no JSON object")
    if set(value) != {"distinct", "reason"}:
        return Verdict(None, text, "the reply has other keys than distinct and reason")
    if not isinstance(value["distinct"], bool):
        return Verdict(None, text, "`distinct` is neither true nor false")
    if not isinstance(value["reason"], str):
        return Verdict(None, text, "`reason` is no text")
    return Verdict(value["distinct"], value["reason"])
