"""Rows that a pass over a batch gives: what its tokens made of the states, what predicted them, edges of the prompt."""

from dataclasses import dataclass, field

import numpy as np

from ..models.stack import DECODER


@dataclass
class _Rows:
    """`rows[i]` is an index into the batch, `positions[i]` the token's place in its sequence."""

    rows: np.ndarray
    positions: np.ndarray
    values: dict[str, np.ndarray]
    """By name of what was reduced, one entry per row (vectors of a narrower scope: per member of it)."""

    def inside(self, scope: str | None) -> np.ndarray | slice:
        """The rows that belong to a scope; all, where it is not narrower."""
        return slice(None)


@dataclass
class StateBlock(_Rows):
    """States, attention and vectors of the tokens that one stack read."""

    stack: str = DECODER
    members: dict[str, np.ndarray] = field(default_factory=dict)
    """By scope that is narrower than the block, which of its rows belong to it."""

    def inside(self, scope: str | None) -> np.ndarray | slice:
        return super().inside(scope) if scope is None else self.members.get(scope, super().inside(scope))


@dataclass
class PredictionBlock(_Rows):
    """The distributions that predicted tokens."""


@dataclass
class EdgeBlock(_Rows):
    """Attention edges of prompts; the position is the query's."""

    stack: str
    kind: str
    """Kind of attention."""


Block = StateBlock | PredictionBlock | EdgeBlock
