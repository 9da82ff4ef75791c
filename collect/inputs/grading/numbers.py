"""Numbers in texts, read exactly: signs, groups of digits, decimals, fractions, powers, words for scales, units.

A percent sign counts as a unit: `50%` equals `50`, not `0.5`.
"""

import re
from collections import deque
from fractions import Fraction
from math import prod

from .notation import clean

MAX_NUMBER_CHARS = 300
MAX_EXPONENT = 300
"""Longer numbers and larger exponents are not read: their exact value costs too much."""

SCALES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "百": 100, "千": 10**3, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8,
}  # fmt: skip

_GROUPS = (
    r"[1-9][0-9]{0,2}(?:,[0-9]{3})+",
    r"(?<![0-9],)[1-9][0-9]?(?:,[0-9]{2}){1,20},[0-9]{3}",
    r"(?<![0-9] )[1-9][0-9]{0,2}(?: [0-9]{3}){1,20}",
    r"[1-9][0-9]{0,2}(?:'[0-9]{3}){1,20}",
    r"[1-9][0-9]{0,2}(?:_[0-9]{3}){1,20}",
    r"[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,20}",
)
"""Groups of digits; bounded, so that a long list of them is not tried from each of its members to its end."""
_DECIMAL_COMMA = (
    r"(?<![0-9],)(?:[1-9][0-9]{0,2}(?:(?: [0-9]{3}){1,20}|(?:\.[0-9]{3}){1,20})|[0-9]+),"
    r"(?:(?<=[. ][0-9]{3},)[0-9]+|(?<=(?<![0-9])0,)[0-9]+|[0-9]{1,2}|[0-9]{4,})(?![0-9])(?!,[0-9])"
)
"""A comma before one, two or more than three digits, or behind groups of another mark, separates decimals."""
_PLAIN = rf"{_DECIMAL_COMMA}|(?:(?:{'|'.join(_GROUPS)})(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_DECIMAL = rf"(?:{_PLAIN})(?:[eE][+-]?[0-9]+(?![0-9A-Za-z]))?"
_SCALE = rf"(?:\s?(?:(?i:{'|'.join(word for word in SCALES if word.isascii())})(?![A-Za-z])|[百千万萬亿億]))"
_MAGNITUDE = (
    rf"(?>(?:(?P<whole>[0-9]+)\s+(?:and\s+)?(?=(?:[0-9]{{1,2}}|[0-9]{{4,}})/))?(?P<top>{_DECIMAL})"
    r"(?:\s?\^\s?(?:\{\s?(?P<braced>[+-]?[0-9]{1,4})\s?\}|(?P<power>[+-]?[0-9]{1,4})))?"
    rf"(?:\s*/\s*(?P<bottom>[+-]?(?:{_DECIMAL})))?(?P<scale>{_SCALE}{{0,2}}))"
)
CURRENCY = "$€£¥₹₩₽₺₫₪฿"
_CURRENCY = rf"(?:(?:US|AU|CA|HK|NZ)?[{CURRENCY}]|(?:USD|EUR|GBP|INR|CNY|JPY|CHF|Rs\.?)\s?(?=[0-9.]))"
_LETTER = r"[^\W\d_]"
_UNIT_WORD = rf"(?:{_LETTER}{{2,}}|[mgshlL])(?:\^\{{?[23]\}}?|[²³])?"
_SCRIPTS_WITHOUT_SPACES = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
_ATTACHED_UNIT = (
    r"(?:[mck]m|[mk]g|m[lL]|ft|mi|lbs?|oz|min|sec|hrs?|mph)(?:\^\{?[23]\}?|[²³])?|" + _SCRIPTS_WITHOUT_SPACES
)
_UNIT = (
    rf"\s*(?:%|¢|°[CF]?|[{CURRENCY}]|{_ATTACHED_UNIT})?(?:\s+{_UNIT_WORD}(?:[\s/]+{_UNIT_WORD})*)?"
    r"(?:\s*\([^()0-9]{1,40}\))?"
)
_NOT_UNITS = frozenset({"and", "mod", "or", "pi", "sqrt", "times", "to"})

_WHOLE_TEXT = re.compile(rf"(?P<sign>[+-]?)\s*{_CURRENCY}?(?P<inner>[+-]?)\s*{_MAGNITUDE}(?P<unit>{_UNIT})")
_IN_TEXT = re.compile(rf"(?<![0-9A-Za-z_.^])(?<!\^\{{){_MAGNITUDE}(?!(?:st|nd|rd|th)\b)")


def read_number(text: str) -> Fraction | None:
    """Return the exact value of a text that is one number with, at most, a currency and a unit; None if it is not."""
    text = clean(text)
    if text.startswith("(") and text.endswith(")") and "," not in text:  # (3,4) is a pair
        text = text[1:-1]
    match = _WHOLE_TEXT.fullmatch(text)
    if match is None or (match["sign"] and match["inner"]):
        return None
    if _NOT_UNITS & set(re.findall("[a-z]+", match["unit"])):
        return None
    return value_of(match, negative="-" in (match["sign"], match["inner"]))


def last_number(text: str) -> re.Match[str] | None:
    """The last number of a cleaned text; `value_of` reads it."""
    last = deque(_IN_TEXT.finditer(text), maxlen=1)
    return last[0] if last else None


def numbers_in(text: str) -> set[Fraction]:
    """The values of all numbers of a cleaned text that can be read."""
    values = (value_of(match, negative=has_sign(text, match.start())) for match in _IN_TEXT.finditer(text))
    return {value for value in values if value is not None}


def has_sign(text: str, start: int) -> bool:
    """Return whether a minus before a number is its sign: `is -5` and `= - 5` are, `9 - 5` and `x-5` are not."""
    before = text[max(0, start - 100) : start]
    if before[-1:] and before[-1] in CURRENCY:
        before = before[:-1]
    left = before.rstrip()
    if not left.endswith("-"):
        return False
    operand = left[:-1].rstrip()
    if not operand or operand[-1] in "=:(,;{[+-*/×$\\":
        return True
    return left == before and left[-2] in " \n\t" and not (operand[-1].isdigit() or operand[-1] in ")]}%")


def value_of(match: re.Match[str], *, negative: bool) -> Fraction | None:
    """The exact value of a matched number; None if it is too long, or divides by zero."""
    if len(match.group()) > MAX_NUMBER_CHARS:
        return None
    top, bottom = _decimal(match["top"]), _decimal(match["bottom"] or "1")
    power = int(match["braced"] or match["power"] or 1)
    if top is None or bottom is None or bottom == 0 or (top == 0 and power <= 0):
        return None
    if abs(power) * max(len(str(top.numerator)), len(str(top.denominator))) > MAX_NUMBER_CHARS:
        return None
    value = int(match["whole"] or 0) + Fraction(top**power) / bottom
    value *= prod(SCALES[word.lower()] for word in re.findall(r"[A-Za-z]+|[百千万萬亿億]", match["scale"]))
    return -value if negative else value


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


def _decimal(text: str) -> Fraction | None:
    exponent = re.search(r"[eE]([+-]?[0-9]+)", text)
    if exponent and abs(int(exponent[1])) > MAX_EXPONENT:
        return None
    if re.fullmatch(_DECIMAL_COMMA, text):
        whole, decimals = text.split(",")
        return Fraction(f"{re.sub('[. ]', '', whole)}.{decimals}")
    text = re.sub(r"[,' _]", "", text)
    return Fraction(text.replace(".", "") if text.count(".") > 1 else text)
