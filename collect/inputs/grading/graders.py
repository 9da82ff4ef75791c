"""The graders by name: `auto`, `exact`, `symbolic`, `contains`, `regex:PATTERN`, `choice`; each with its version."""

import re
from collections import deque
from dataclasses import dataclass

from ....lake.errors import UsageError, did_you_mean
from .exact import EXACT, grade
from .notation import clean, comparable
from .numbers import canonical, numbers_in, read_number
from .options import Options
from .reference import Reference
from .symbolic import grade_symbolic, symbolic_name
from .verdict import NO_ANSWER, Grade
from .words import words_of

GRADER_NAMES = ("auto", "exact", "symbolic", "contains", "regex:PATTERN", "choice")
BY_TEXT = ("exact", "symbolic")
"""Graders that compare with the reference itself where an item has options too."""
CONTAINS, CHOICE, REGEX = "contains/1", "choice/1", "regex/1"
NOT_CONTAINED = "does not contain the answer"
NO_OPTION = "chooses none of the options"
NO_MATCH = "the pattern matches nothing"


@dataclass(frozen=True)
class Grader:
    """A grader that was asked for. `auto` chooses among options where an item has them and is `exact` elsewhere."""

    kind: str
    pattern: re.Pattern[str] | None = None

    def name(self, options: Options | None) -> str:
        """Name and version, as stored beside each grade."""
        if self.pattern is not None:
            return f"{REGEX}:{self.pattern.pattern}"
        if self.kind == "contains":
            return CONTAINS
        if self.kind == "symbolic":
            return symbolic_name()
        return CHOICE if options is not None and self.kind not in BY_TEXT else EXACT

    def grade(self, completion: str, answer: str, options: Options | None = None) -> Grade:
        """Grade a completion against a reference answer."""
        if self.pattern is not None:
            return _by_pattern(self.pattern, completion, answer)
        if self.kind == "contains":
            return _contains(completion, answer)
        if options is not None and self.kind not in BY_TEXT:
            return _chosen(completion, answer, options)
        return (grade_symbolic if self.kind == "symbolic" else grade)(completion, answer)


def parse_grader(text: str) -> Grader:
    """Read `--grader`; UsageError for a name that does not exist or a pattern that is none."""
    kind, colon, pattern = text.partition(":")
    if kind == "regex" and pattern:
        try:
            return Grader(kind, re.compile(pattern, re.MULTILINE))
        except re.error as error:
            raise UsageError(f"--grader {text!r}: the pattern cannot be read: {error}.") from error
    if kind == "symbolic" and not colon:
        symbolic_name()  # refused now if it cannot run
    if colon or kind not in ("auto", *BY_TEXT, "contains", "choice"):
        raise UsageError(f"There is no grader {text!r}.{did_you_mean(text, GRADER_NAMES)}")
    return Grader(kind)


def _contains(completion: str, answer: str) -> Grade:
    """Right if the number, or the text as whole words, stands anywhere."""
    reference = Reference.read(answer)
    if reference is None:
        return Grade(None, False, NO_ANSWER)
    text = clean(completion)
    if reference.number is not None:
        found = reference.number in numbers_in(text)
        return Grade(canonical(reference.number), True, None) if found else Grade(None, False, NOT_CONTAINED)
    words = words_of(reference.text)
    found = words is not None and re.search(words, text, re.IGNORECASE) is not None
    return Grade(reference.text, True, None) if found else Grade(None, False, NOT_CONTAINED)


def _by_pattern(pattern: re.Pattern[str], completion: str, answer: str) -> Grade:
    """The last match's first group (or all of it) is the answer."""
    reference = Reference.read(answer)
    if reference is None:
        return Grade(None, False, NO_ANSWER)
    matches = deque(pattern.finditer(completion), maxlen=1)
    said = (matches[0][1] if pattern.groups else matches[0][0]) if matches else None
    if not said or not clean(said):
        return Grade(None, False, NO_MATCH)
    number = read_number(said)
    if number is not None:
        return Grade.of(canonical(number), number == reference.number)
    return Grade.of(said.strip(), comparable(clean(said)) == comparable(reference.text))


def _chosen(completion: str, answer: str, options: Options) -> Grade:
    expected = options.expected(answer)
    if expected is None:
        return Grade(None, False, NO_ANSWER)
    label = options.chosen(completion)
    return Grade(None, False, NO_OPTION) if label is None else Grade.of(label, label == expected)
