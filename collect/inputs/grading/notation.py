r"""One way of writing for texts that TeX, typographers and keyboards write in several; the last balanced \boxed{}."""

import re
import unicodedata

_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\u2010\u2011\ufe63\uff0d", "-"),
        **dict(zip("，．％＋／＝（）＄｛｝：；＇＾＊", ",.%+/=()${}:;'^*", strict=True)),
        "\u066b": ".",
        "\u066c": ",",
        "\u2044": "/",
        "\u2019": "'",
        "\uffe5": "¥",
    }
)

_NUMBER_ARGUMENT = r"(?:\{\s*(-?(?:[0-9][0-9.,]*|\.[0-9]+))\s*\}|([0-9]))"
_FRACTION = re.compile(rf"\\[dtc]?frac\s*{_NUMBER_ARGUMENT}\s*{_NUMBER_ARGUMENT}(?![0-9])")
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)

# In this order: each pattern may rely on what those before it have removed.
_TEX = [
    (re.compile(r"\\(?:left|right|displaystyle|textstyle|[bB]igg?[lr]?)(?![A-Za-z])|\\[()\[\]!]"), ""),
    (
        re.compile(r"\\(?:q?quad|(?:en|thin|med|thick)?space)(?![A-Za-z])|\\[hm]space\*?\s*\{[^{}]*\}|\\phantom\{\}"),
        " ",
    ),
    (re.compile(r"(?<=[0-9])\{,\}(?=[0-9])"), ","),
    # Columns of a table are no groups of one number: runs of spaces stay apart from one space, lines from both.
    (re.compile(r" *\t\s*| {2,}"), "\t"),
    (re.compile(r"(?:\\[,;: ]|~|[^\S\n\t])+"), " "),
    (re.compile(r"[ \t]?\n\s*"), "\n"),
    (re.compile(r"\\([$%#&_])"), r"\1"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])"), "°"),
    (
        re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt)|mbox|boldsymbol|bm)\s*\{([^{}]*)\}"),
        r" \1",
    ),
]
_SCIENTIFIC = re.compile(
    r"(?<=[0-9])\s*(?:\\times|\\cdot|[×*·⋅])\s*10\s*(?:\^\s*\{?\s*([+-]?[0-9]+)\s*\}?|([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))"
)
_SUPERSCRIPT_POWER = re.compile(r"(?<=[0-9])([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")


def plain(text: str) -> str:
    """The text with TeX spacing, numeric fractions and styles, other digits and signs as plain characters."""
    text = _OTHER_DIGIT.sub(lambda match: str(unicodedata.decimal(match.group())), text.translate(_CHARACTERS))
    text = re.sub(f"(?<=[0-9]) ?[{_VULGAR}]", lambda match: " " + _vulgar(match.group()[-1]), text)
    text = re.sub(f"[{_VULGAR}]", lambda match: _vulgar(match.group()), text)
    for pattern, replacement in _TEX:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\bnegative (?=[0-9.])", "-", _FRACTION.sub(_fraction, text))
    text = _SCIENTIFIC.sub(lambda match: f"e{match[1] or match[2].translate(_SUPERSCRIPTS)}", text)
    return _SUPERSCRIPT_POWER.sub(lambda match: f"^{{{match[1].translate(_SUPERSCRIPTS)}}}", text)


def clean(text: str) -> str:
    """The plain text of an answer: without wrapping marks, braces and quotes, a leading `x =` and a trailing period."""
    text = plain(text).strip(" \n\t$*`")
    text = re.sub(r"^\s*[A-Za-z]\s*=\s*(?=[-+$0-9.])", "", text)
    text = text.strip(" \n\t*`").rstrip(".,;。 ")
    while (inner := _unwrapped(text)) is not None:
        text = inner.strip(" \n\t$")
    return text


def uniform(text: str) -> str:
    r"""A cleaned text with one way of writing the same TeX: `\dfrac` and `\frac`, `x^{2}` and `x^2`, `\{` and `{`."""
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\\(?:cdot|times)(?![A-Za-z])|[×·⋅]", "*", text)
    text = re.sub(r"(?<!\\)\{([^{}\\]|\\[A-Za-z]+)\}", r"\1", text)
    return re.sub(r"\\(?=[{}])", "", text)


def comparable(text: str) -> str:
    """What is left of a cleaned text when spaces, case and ways of writing the same TeX do not count."""
    text = re.sub(r"\s+", "", uniform(text)).casefold()
    text = re.sub(r"^[a-z]=(?=[^=]+$)", "", text)
    return re.sub(r"^[(\[]([a-z])[)\]]$", r"\1", text)


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


def _vulgar(character: str) -> str:
    """`½` as `1/2`."""
    return unicodedata.normalize("NFKC", character).replace("\u2044", "/")


def _fraction(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()]
    return f"{' ' if before.isdigit() else ''}{match[1] or match[2]}/{match[3] or match[4]}"


def _unwrapped(text: str) -> str | None:
    """The text inside one pair of braces or quotes around all of it; None if there is none."""
    if len(text) < 2 or (text[0], text[-1]) not in (("{", "}"), ('"', '"'), ("“", "”"), ("«", "»"), ("'", "'")):
        return None
    if text[0] != "{":
        return None if text[0] in text[1:-1] or text[-1] in text[1:-1] else text[1:-1]
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0 and i < len(text) - 1:
            return None
    return text[1:-1] if depth == 0 else None
