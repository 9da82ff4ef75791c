"""What a completion is worth beside a reference answer: notations, references, graders. No model and no prompt here."""

from .exact import EXACT, grade
from .graders import GRADER_NAMES, Grader, parse_grader
from .methods import solution_method
from .notation import last_box
from .numbers import canonical, read_number
from .options import Options, read_options
from .verdict import (
    DIFFERENT,
    EMPTY_BOX,
    NO_ANSWER,
    NO_NUMBER,
    NOT_A_NUMBER,
    NOTHING_SAID,
    TIMED_OUT,
    UNREADABLE,
    Grade,
)

__all__ = [
    "DIFFERENT", "EMPTY_BOX", "EXACT", "GRADER_NAMES", "NOTHING_SAID", "NOT_A_NUMBER", "NO_ANSWER", "NO_NUMBER",
    "TIMED_OUT", "UNREADABLE", "Grade", "Grader", "Options", "canonical", "grade", "last_box", "parse_grader",
    "read_number", "read_options", "solution_method",
]  # fmt: skip
