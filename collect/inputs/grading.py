r"""Grade a completion against an answer: the last balanced \boxed{}, else the last number, compared exactly.

Numbers are compared as fractions, after signs, thousands commas, currency, percent signs and units are normalised. A
percent sign counts as a unit: `50%` equals `50`, not `0.5`. Knows nothing of models, prompts or tables.
"""

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from ..tinymath.problems import OPENINGS, Method

GRADER = "boxed-or-last-number/1"

NO_ANSWER = "no answer to compare with"
NO_NUMBER = "no box and no number"
EMPTY_BOX = "the box is empty"
NOT_A_NUMBER = "the box holds no number"
UNREADABLE = "the last number cannot be read"
DIFFERENT = "differs from the answer"

MAX_NUMBER_CHARS = 300
MAX_EXPONENT = 300
"""Longer numbers and larger exponents are not read: their exact value costs too much."""

_MINUS = str.maketrans(dict.fromkeys("\u2212\u2013\u2010\u2011\ufe63\uff0d", "-"))
_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_DECIMAL = rf"(?:{_PLAIN})(?:[eE][+-]?[0-9]+(?![0-9A-Za-z]))?"
_MAGNITUDE = (
    rf"(?>(?:(?P<whole>[0-9]+)\s+(?=[0-9.,]+/))?(?P<top>{_DECIMAL})(?:\s*/\s*(?P<bottom>[+-]?(?:{_DECIMAL})))?)"
)
_CURRENCY = "[$€£¥₹]"
_UNIT_WORD = r"(?:[A-Za-z]{2,}|[mgshlL])(?:\^\{?[23]\}?|[²³])?"
_ATTACHED_UNIT = r"(?:[mck]m|[mk]g|m[lL]|ft|mi|lbs?|oz|min|sec|hrs?|mph)(?:\^\{?[23]\}?|[²³])?"
_UNIT = rf"\s*(?:%|°[CF]?|{_CURRENCY}|{_ATTACHED_UNIT})?(?:\s+{_UNIT_WORD}(?:[\s/]+{_UNIT_WORD})*)?"
_NOT_UNITS = frozenset({"and", "mod", "or", "pi", "sqrt", "times", "to"})

_WHOLE_TEXT = re.compile(rf"(?P<sign>[+-]?)\s*{_CURRENCY}?(?P<inner>[+-]?)\s*{_MAGNITUDE}(?P<unit>{_UNIT})")
_IN_TEXT = re.compile(rf"(?<![0-9A-Za-z_.]){_MAGNITUDE}(?!(?:st|nd|rd|th)\b)")
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_NUMBER_IN_BRACES = r"\{\s*(-?[0-9.,]+)\s*\}"

# In this order: each pattern may rely on what those before it have removed.
_TEX = [
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[()\[\]!]"), ""),
    (re.compile(r"(?<=[0-9])(?:\\,|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"(?<=[0-9])\{,\}(?=[0-9])"), ","),
    (re.compile(r"(?:\\[,;: ]|~|\s)+"), " "),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\^\{?\\circ\}?"), "°"),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"), r" \1"),
    (re.compile(rf"(?<=[0-9])\s*\\[dt]?frac\s*{_NUMBER_IN_BRACES}\s*{_NUMBER_IN_BRACES}"), r" \1/\2"),
    (re.compile(rf"\\[dt]?frac\s*{_NUMBER_IN_BRACES}\s*{_NUMBER_IN_BRACES}"), r"\1/\2"),
    (re.compile(r"\\[dt]?frac\s*([0-9])\s*([0-9])"), r"\1/\2"),
    (re.compile(r"(?<=[0-9])\s*(?:\\times|\\cdot|[×*])\s*10\s*\^\s*\{?([+-]?[0-9]+)\}?"), r"e\1"),
]


@dataclass(frozen=True)
class Grade:
    """What a completion answered; `reason` is null only if it is right."""

    predicted_answer: str | None
    correct: bool
    reason: str | None


def grade(completion: str, answer: str) -> Grade:
    """Grade a completion; nothing readable is wrong with a reason, never right."""
    expected = _clean(answer)
    if not expected:
        return Grade(None, False, NO_ANSWER)
    expected_number = read_number(expected)
    box = last_box(completion)
    if box is not None:
        return _grade_box(_clean(box), expected, expected_number)
    text = _clean(completion)
    if expected_number is None and _comparable(text) == _comparable(expected):
        return Grade(text, True, None)
    match = _last_number(text)
    if match is None:
        return Grade(None, False, NO_NUMBER)
    predicted = _value(match, negative=_has_sign(text, match.start()))
    if predicted is None:
        return Grade(None, False, UNREADABLE)
    correct = predicted == expected_number
    return Grade(canonical(predicted), correct, None if correct else DIFFERENT)


def solution_method(completion: str) -> Method | None:
    """Return which of the two methods a completion of `tinymath` begins to use, or None."""
    for method, opening in OPENINGS.items():
        if re.match(rf"\s*{re.escape(opening)} [0-9]+ [+-] [0-9]+", completion):
            return method
    return None


def last_box(text: str) -> str | None:
    r"""Return the content of the last `\boxed{}` whose braces balance (of nested ones, the inner), or None."""
    opened: list[tuple[int, bool]] = []
    best: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        mark = match.group()
        if mark == "}" and opened:
            start, boxed = opened.pop()
            if boxed and (best is None or start > best[0]):
                best = (start, match.start())
        elif mark.endswith("{") and mark != r"\{":
            opened.append((match.end(), mark != "{"))
    return None if best is None else text[slice(*best)]


def read_number(text: str) -> Fraction | None:
    """Return the exact value of a text that is one number with, at most, a currency and a unit; None if it is not."""
    match = _WHOLE_TEXT.fullmatch(_clean(text))
    if match is None or (match["sign"] and match["inner"]):
        return None
    if _NOT_UNITS & set(re.findall("[a-z]+", match["unit"])):
        return None
    return _value(match, negative="-" in (match["sign"], match["inner"]))


def canonical(value: Fraction) -> str:
    """Return `5`, `-0.75` or, where the decimals do not end, `1/3`."""
    numerator, denominator = value.as_integer_ratio()
    places = 0
    while denominator % 10 == 0 or denominator % 5 == 0 or denominator % 2 == 0:
        factor = 10 if denominator % 10 == 0 else 5 if denominator % 5 == 0 else 2
        numerator, denominator, places = numerator * (10 // factor), denominator // factor, places + 1
    if denominator != 1:
        return str(value)
    digits = str(abs(numerator)).rjust(places + 1, "0")
    sign = "-" if numerator < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def _grade_box(box: str, expected: str, expected_number: Fraction | None) -> Grade:
    if not box:
        return Grade(None, False, EMPTY_BOX)
    number = read_number(box)
    if number is not None:
        correct = number == expected_number
        return Grade(canonical(number), correct, None if correct else DIFFERENT)
    correct = _comparable(box) == _comparable(expected)
    return Grade(box, correct, None if correct else DIFFERENT if expected_number is None else NOT_A_NUMBER)


def _last_number(text: str) -> re.Match[str] | None:
    last = deque(_IN_TEXT.finditer(text), maxlen=1)
    return last[0] if last else None


def _has_sign(text: str, start: int) -> bool:
    """Return whether a minus before a number is its sign: `is -5` and `= - 5` are, `9 - 5` and `x-5` are not."""
    before = text[:start]
    if before[-1:] in tuple("$€£¥₹"):
        before = before[:-1]
    left = before.rstrip()
    if not left.endswith("-"):
        return False
    operand = left[:-1].rstrip()
    if not operand or operand[-1] in "=:(,;{[+-*/×$\\":
        return True
    return left == before and left[-2] == " " and not (operand[-1].isdigit() or operand[-1] in ")]}%")


def _value(match: re.Match[str], *, negative: bool) -> Fraction | None:
    if len(match.group()) > MAX_NUMBER_CHARS:
        return None
    top, bottom = _decimal(match["top"]), _decimal(match["bottom"] or "1")
    if top is None or bottom is None or bottom == 0:
        return None
    value = int(match["whole"] or 0) + top / bottom
    return -value if negative else value


def _decimal(text: str) -> Fraction | None:
    exponent = re.search(r"[eE]([+-]?[0-9]+)", text)
    if exponent and abs(int(exponent[1])) > MAX_EXPONENT:
        return None
    return Fraction(text.replace(",", ""))


def _clean(text: str) -> str:
    """Return the text with TeX spacing, fractions and styles as plain characters, and without wrapping marks."""
    text = text.translate(_MINUS)
    for pattern, plain in _TEX:
        text = pattern.sub(plain, text)
    text = re.sub(r"^\s*[A-Za-z]\s*=\s*(?=[-+$0-9.])", "", text.strip(" $*`"))
    return text.strip(" *`").rstrip(".,; ")


def _comparable(text: str) -> str:
    return re.sub(r"\s+|\\(?=[{}])", "", text).casefold()
