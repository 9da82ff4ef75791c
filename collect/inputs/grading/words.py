"""Text answers in completions: as whole words at the end of the last sentence, or after `answer is`."""

import re
from collections import deque

from .notation import uniform

_CLOSERS = " \n\t.!?,;:。！？…\"'”’»)]}*_`$"
_MARK = re.compile(r"\bans(?:wer)?(?:\s+is|\s+was|\s*[:=])[\s:*_`\"'“«(\[$]*", re.IGNORECASE)
_NEGATED = re.compile(r"(?:\bnot|n't|\bnever|\bnor)\s+(?:(?:the|an?|in|at|by|from)\s+)?$", re.IGNORECASE)
_GOES_ON = r"(?=\s*(?:[.!?,;:。！？)\]*_`$\"'”’»\n]|\Z|\b(?:because|since|as|which|that|who|where)\b))"
_MARKED_LINE = re.compile(r"####[ \t]*([^\n]+)")


def after_answer_is(text: str) -> str | None:
    """What follows the last `answer is` or `answer:` of a text; None if nothing does."""
    marks = deque(_MARK.finditer(text), maxlen=1)
    rest = text[marks[0].end() :] if marks else ""
    return rest if rest.strip(_CLOSERS) else None


def after_hashes(text: str) -> str | None:
    """The rest of the line behind the last `####`, which publishers of worked solutions put before the answer."""
    lines = _MARKED_LINE.findall(text)
    return lines[-1] if lines else None


def sentence(text: str) -> str:
    """The first sentence of a text, without what closes it."""
    return re.split(r"(?<=[.!?。！？])\s+|\n", text.strip(), maxsplit=1)[0].strip(_CLOSERS)


def last_sentence(text: str) -> str:
    """The last sentence of a text, without what closes it."""
    return re.split(r"(?<=[.!?。！？])\s+|\n", text.strip(_CLOSERS))[-1].strip(_CLOSERS)


def concludes(text: str, answer: str) -> bool:
    """Whether a cleaned text ends in the answer, as whole words and not denied, or has it after `answer is`."""
    text, words = uniform(text), words_of(answer)
    if words is None:
        return False
    at_end = re.search(rf"{words}\Z", text.rstrip(_CLOSERS), re.IGNORECASE)
    if at_end is not None and not _NEGATED.search(text[max(0, at_end.start() - 40) : at_end.start()]):
        return True
    rest = after_answer_is(text)
    return rest is not None and re.match(rf"(?:(?:the|an?)\s+)?{words}{_GOES_ON}", rest, re.IGNORECASE) is not None


def words_of(answer: str) -> str | None:
    """A pattern that matches the answer as whole words, however it is spaced; None if it has no words or signs."""
    tokens = re.findall(r"\w+|[^\w\s]", uniform(answer).strip(_CLOSERS))
    if not tokens:
        return None
    pattern = re.escape(tokens[0])
    for before, token in zip(tokens, tokens[1:], strict=False):
        apart = before[-1].isalnum() and token[0].isalnum()
        pattern += (r"\s+" if apart else r"\s*") + re.escape(token)
    first, last = tokens[0][0], tokens[-1][-1]
    left = r"(?<!\w)" if first.isalnum() or first == "_" else ""
    right = r"(?!\w)" if last.isalnum() or last == "_" else ""
    return left + pattern + right
