"""Pictures of a run's paths, and the analyses that they show."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..analysis.question import Answer


@dataclass(frozen=True)
class DrawnAnalyses:
    """The analyses that pictures show, and where the pictures are."""

    answers: tuple["Answer", ...]
    index: str
    """CSV file with one row per sequence."""
    n_figures: int
    n_without_rows: int

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON, the answers left out."""
        return {"index": self.index, "n_figures": self.n_figures, "n_without_rows": self.n_without_rows}
