r"""The grader `exact`: the last balanced \boxed{}, else what stands behind ####, else the last number or words.

Numbers are compared as fractions, whatever their notation; other answers as text without spaces, case and TeX styles.
"""

from .notation import clean, comparable, last_box
from .numbers import canonical, has_sign, last_number, read_number, value_of
from .reference import Reference
from .verdict import EMPTY_BOX, NO_ANSWER, NO_NUMBER, NOT_A_NUMBER, NOTHING_SAID, UNREADABLE, Grade
from .words import after_answer_is, after_hashes, concludes, last_sentence, sentence

EXACT = "exact/2"


def grade(completion: str, answer: str) -> Grade:
    """Grade a completion; nothing readable is wrong with a reason, never right."""
    reference = Reference.read(answer)
    if reference is None:
        return Grade(None, False, NO_ANSWER)
    box = last_box(completion)
    if box is not None:
        return grade_box(box, reference)
    behind = after_hashes(completion)
    if behind is not None and (read_number(behind) is not None or reference.number is None):
        return grade_box(behind, reference)
    return _grade_number(completion, reference) if reference.number is not None else _grade_text(completion, reference)


def grade_box(box: str, reference: Reference) -> Grade:
    """Grade a text that is the whole answer of a completion."""
    text = clean(box)
    if not text:
        return Grade(None, False, EMPTY_BOX)
    number = read_number(box)
    if number is not None:
        return Grade.of(canonical(number), number == reference.number)
    correct = comparable(text) == comparable(reference.text)
    return Grade(text, False, NOT_A_NUMBER) if not correct and reference.number is not None else Grade.of(text, correct)


def _grade_number(completion: str, reference: Reference) -> Grade:
    text = clean(completion)
    match = last_number(text)
    if match is None:
        return Grade(None, False, NO_NUMBER)
    predicted = value_of(match, negative=has_sign(text, match.start()))
    if predicted is None:
        return Grade(None, False, UNREADABLE)
    return Grade.of(canonical(predicted), predicted == reference.number)


def _grade_text(completion: str, reference: Reference) -> Grade:
    text = clean(completion)
    if not text:
        return Grade(None, False, NOTHING_SAID)
    if comparable(text) == comparable(reference.text):
        return Grade(text, True, None)
    if concludes(text, reference.text):
        return Grade(reference.text, True, None)
    rest = after_answer_is(text)
    said = last_sentence(text) if rest is None else sentence(rest)
    return Grade.of(said, False) if said else Grade(None, False, NOTHING_SAID)
