"""The one axis of positions that all tokens of a sequence lie on, and the columns of a batch on it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """Where the columns of a batch stand on the axis of positions: column c of row r is position c + origin[r].

    `n_prompt` is the position behind the last prompt token that the stack reads, `first` that of the first token: a
    decoder beside an encoder begins behind what that has read. What lies before is padding.
    """

    origin: Int[Tensor, " batch"]
    n_prompt: Int[Tensor, " batch"]
    first: Int[Tensor, " batch"]

    def positions(self, columns: Int[Tensor, " column"]) -> Int[Tensor, "batch column"]:
        """Position of each column in each row."""
        return columns + self.origin.unsqueeze(-1)

    def in_prompt(self, columns: Int[Tensor, " column"]) -> Bool[Tensor, "batch column"]:
        """Which columns hold prompt tokens of the rows, no padding."""
        positions = self.positions(columns)
        return (positions >= self.first.unsqueeze(-1)) & (positions < self.n_prompt.unsqueeze(-1))

    def middle_third(self) -> tuple[Tensor, Tensor]:
        """First column and end of the middle third of each row's prompt."""
        return self.n_prompt // 3 - self.origin, 2 * self.n_prompt // 3 - self.origin

    def of_rows(self, rows: Tensor) -> "Axis":
        """The axis of some rows of the batch."""
        return Axis(self.origin[rows], self.n_prompt[rows], self.first[rows])


def columns_of(n: int, before: int, device: torch.device) -> Int[Tensor, " column"]:
    """The columns of a pass that reads `n` of them after `before` others."""
    return torch.arange(before, before + n, device=device)
