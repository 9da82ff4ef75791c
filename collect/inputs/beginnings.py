"""How a completion begins where it is not chosen from its first token on: with a text, with ids, as a stored one."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parent:
    """The stored sequence that a branch goes on from; `position` is the first one that may differ from it."""

    run_id: str
    sequence_id: int
    position: int


@dataclass(frozen=True, eq=False)
class StoredPrompt:
    """A prompt as it was read before: it is not rendered and not tokenised again."""

    ids: np.ndarray
    """Without what a decoder beside an encoder starts with."""
    char_ends: np.ndarray | None
    rendered: str | None
    item_offset: int
    prompt_id: str


@dataclass(frozen=True)
class Beginning:
    """The first tokens of a completion: ids, then those of a text."""

    ids: tuple[int, ...] = ()
    text: str | None = None
    one_token: bool = False
    """Whether the text must be one token."""
    joined: bool = False
    """Whether a space comes before the text where neither it nor the prompt has white space there: as it is written."""
    origin: str | None = None
    """Value of the column `origin`; None says how the rest is chosen."""
    parent: Parent | None = None
    observed_from: int = 0
    """The first position that is observed; what came before is the parent's."""
