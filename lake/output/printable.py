"""Text that cannot steer what shows it: a terminal, a chart, a page."""

import unicodedata

_SHOWN = {"Zs"}  # spaces of every width


def printable(text: str, keep: str = "") -> str:
    r"""The text with everything that is not shown as a sign of its own written as an escape, `\u001b`.

    That is control characters of both sets (C0, C1), direction and other format characters, line and paragraph
    separators, lone surrogates, private and unassigned code points; `keep` names those that may stay, such as newlines.
    """
    if text.isprintable():
        return text
    return "".join(c if is_printable(c) or c in keep else escape(c) for c in text)


def is_printable(character: str) -> bool:
    """Whether a character is shown as a sign or a space and does nothing else."""
    return character.isprintable() or unicodedata.category(character) in _SHOWN


def escape(character: str) -> str:
    r"""A character as JSON and Python write it: `\u202e`, `\U000e0001`."""
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
