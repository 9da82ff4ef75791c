"""What every grader returns, and the reasons it may give."""

from dataclasses import dataclass

NO_ANSWER = "no answer to compare with"
NO_NUMBER = "no box and no number"
NOTHING_SAID = "the completion says nothing"
EMPTY_BOX = "the box is empty"
NOT_A_NUMBER = "the box holds no number"
UNREADABLE = "the last number cannot be read"
DIFFERENT = "differs from the answer"
TIMED_OUT = "timed out"


@dataclass(frozen=True)
class Grade:
    """What a completion answered; `reason` is null only if it is right."""

    predicted_answer: str | None
    correct: bool
    reason: str | None

    @classmethod
    def of(cls, predicted: str | None, correct: bool) -> "Grade":
        """Right, or different from the answer."""
        return cls(predicted, correct, None if correct else DIFFERENT)
