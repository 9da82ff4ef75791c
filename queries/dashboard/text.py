"""Text from a lake where Streamlit would read it as Markdown: links and pictures in it must stay text."""

import re

from ...lake.output.printable import printable

LONGEST = 400


def literal(text: object) -> str:
    """The text with everything that Markdown could act on escaped, cut where it is long."""
    plain = printable(str(text))
    cut = plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "\u2026"
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>~$:&])", r"\\\1", cut)
