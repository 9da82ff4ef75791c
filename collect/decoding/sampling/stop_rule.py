"""A rule that ends a sequence by what was observed of it so far: `entropy_bits > 6 and margin < 0.1 for 5`.

Rules are part of the configuration, so numpy is imported where they are applied, not where they are read.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....lake.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

COLUMNS = ("logprob", "surprisal_bits", "entropy_bits", "rank", "top1_prob", "margin", "top10_mass")
SAMPLING_COLUMNS = ("sampling_logprob", "sampling_entropy_bits")
COMPARISONS: dict[str, Callable] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_CONDITION = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|==|!=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
_REPEATED = re.compile(r"(.*?)(?:\s+for\s+(\d+)(?:\s+steps?)?)?\s*", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """One comparison of a `token_steps` column of a generated token with a number."""

    column: str
    comparison: str
    value: float

    def holds(self, steps: "Mapping[str, np.ndarray]") -> "np.ndarray":
        """For which rows of one step it holds; a value that is not finite makes no condition true."""
        import numpy as np

        if self.column == "surprisal_bits":
            found = -steps["logprob"] / np.log(2.0)
        else:
            found = steps[self.column]
        return COMPARISONS[self.comparison](found, self.value) & np.isfinite(found)


@dataclass(frozen=True)
class StopRule:
    """All conditions hold for each of the last `n_steps` generated tokens."""

    conditions: tuple[Condition, ...]
    n_steps: int = 1

    @classmethod
    def parse(cls, text: str) -> "StopRule":
        """Read `COLUMN OP NUMBER [and COLUMN OP NUMBER ...] [for N]`; UsageError says what is possible."""
        match = _REPEATED.fullmatch(text)
        assert match is not None
        n_steps = int(match[2] or 1)
        if n_steps < 1:
            raise UsageError(f"--stop-when {text!r}: `for N` counts tokens, so N is at least 1.")
        return cls(tuple(_condition(part, text) for part in re.split(r"\band\b", match[1])), n_steps)

    @property
    def columns(self) -> frozenset[str]:
        """The columns it reads."""
        return frozenset(condition.column for condition in self.conditions)


def _condition(part: str, text: str) -> Condition:
    match = _CONDITION.fullmatch(part)
    if match is None:
        raise UsageError(
            f"--stop-when {text!r}: {part.strip()!r} is no condition. "
            "Write COLUMN OP NUMBER, joined by `and`, then `for N` tokens: entropy_bits > 6 and margin < 0.1 for 5"
        )
    known = (*COLUMNS, *SAMPLING_COLUMNS)
    if match[1] not in known:
        raise UsageError(
            f"--stop-when {text!r}: {match[1]!r} is not observed while generating.{did_you_mean(match[1], known)}"
        )
    return Condition(match[1], match[2], float(match[3]))


class StopWatch:
    """How long each rule has held without a break, per sequence of a batch."""

    def __init__(self, rules: tuple[StopRule, ...], n_sequences: int) -> None:
        import numpy as np

        self.rules = rules
        self._held = np.zeros((len(rules), n_sequences), dtype=np.int64)

    def after_step(self, rows: "np.ndarray", steps: "Mapping[str, np.ndarray]") -> "np.ndarray":
        """Take one step's values of the batch's sequences `rows`; returns which of them a rule now ends."""
        import numpy as np

        ended = np.zeros(len(rows), dtype=bool)
        for number, rule in enumerate(self.rules):
            holds = np.logical_and.reduce([condition.holds(steps) for condition in rule.conditions])
            self._held[number, rows] = np.where(holds, self._held[number, rows] + 1, 0)
            ended |= self._held[number, rows] >= rule.n_steps
        return ended
