"""Lists as they are typed after the options of `lake sae`, and what is said of a poor result."""

from typing import Any

from ...lake.errors import UsageError


def items(text: str | None) -> list[str]:
    """The parts between commas."""
    return [item.strip() for item in (text or "").split(",") if item.strip()]


def numbers(text: str | None, kind: type, option: str) -> list[Any]:
    """The parts as numbers."""
    try:
        return [kind(item) for item in items(text)]
    except ValueError:
        raise UsageError(f"{option} {text!r}: give {kind.__name__} values separated by commas.") from None


def layer_numbers(text: str | None, option: str = "--layers") -> list[int]:
    """`0-5`, `3,-1`, or both."""
    layers: list[int] = []
    for item in items(text):
        first, dash, last = item[1:].partition("-") if item[0] == "-" else item.partition("-")
        first = item[0] * (item[0] == "-") + first
        try:
            layers += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError:
            raise UsageError(f"{option} {text!r}: give numbers like 0-5 or 3,9.") from None
    return layers


def remark(fvu: float) -> str:
    """A warning behind an FVU of 1 or more; nothing behind others."""
    return "" if fvu < 1 else " explains less than the mean of the vectors does: train on more tokens (more steps)"
