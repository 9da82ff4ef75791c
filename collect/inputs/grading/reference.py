r"""References as people publish them: `... #### 41`, `\boxed{41}`, `The answer is 41.`, `$41`, `41 apples`, `Paris.`"""

import re
from dataclasses import dataclass
from fractions import Fraction

from .notation import clean, last_box, plain
from .numbers import read_number
from .words import after_answer_is, after_hashes, sentence

_VERB = re.compile(
    r"\b(?:is|are|was|were|equals?|makes?|leaves?|gives?|total(?:s|ing)?|has|have|had|costs?|gets?|needs?|of):?\s+"
    r"(?=[^\s0-9]{0,3}[0-9.])"
)
_EQUATION = re.compile(r"(?:^|[A-Za-z]{2,}[:,]?\s|[:;.]\s)[0-9\s.,+\-*/×÷()$%<>=]*[0-9)%>]\s*=\s*")

MAX_CONCLUSION = 300
"""Characters at the end of a reference in which a concluding number is looked for."""


@dataclass(frozen=True)
class Reference:
    """The answer that a reference states, and its value if it is a number."""

    text: str
    number: Fraction | None

    @classmethod
    def read(cls, answer: str) -> "Reference | None":
        """Read a published reference by the rules that completions are read by; None if it says nothing."""
        stated = _stated(answer)
        text = clean(stated)
        return cls(text, read_number(stated)) if text else None


def _stated(answer: str) -> str:
    """The part of a reference that is the answer."""
    box = last_box(answer)
    if box is not None:
        return box
    behind = after_hashes(answer)
    if behind is not None:
        return behind
    if read_number(answer) is not None:
        return answer
    rest = after_answer_is(answer)
    if rest is not None:
        return sentence(rest)
    return _conclusion(answer) or answer


def _conclusion(answer: str) -> str | None:
    """The number that a sentence or a chain of equations ends in; None where the text is an answer of another kind."""
    last = re.split(r"(?<=[.!?])\s+|\n", plain(answer).strip())[-1][-MAX_CONCLUSION:]
    for pattern in (_VERB, _EQUATION):
        ends = [match.end() for match in pattern.finditer(last)]
        if ends and read_number(last[ends[-1] :]) is not None:
            return last[ends[-1] :]
    return None
