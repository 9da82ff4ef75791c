"""A sequence on its way through the model, when it ends, and the rows that a pass over a batch of them gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..models.editing.edits import Edit
from .sampling.stop_rule import StopRule


@dataclass
class Sequence:
    """One prompt to complete: its ids on the way in, what became of it on the way out.

    The first `n_encoded` ids are read by the encoder, if there is one; the decoder reads the others.
    `given` is the beginning of the completion where that is not chosen but read: part of `generated`, never sampled.
    `given_later` has the ids of single steps behind it that are given too: each is read in the place of a choice.
    `edits` change what the model computes of it. Before the position `observed_from` no row is wanted but the tokens.
    """

    sequence_id: int
    item: int
    sample: int
    prompt_ids: np.ndarray
    generated: list[int] = field(default_factory=list)
    n_encoded: int = 0
    given: tuple[int, ...] = ()
    edits: tuple[Edit, ...] = ()
    observed_from: int = 0
    given_later: Mapping[int, int] = field(default_factory=dict)
    finish_reason: str | None = None
    next_entropy_bits: float | None = None
    next_topk_ids: list[int] | None = None
    next_topk_logprobs: list[float] | None = None
    basin: np.ndarray | None = None
    batch_size: int = 0
    batch_index: int = 0
    """Sequences of the batch when this one entered it, and its row then."""

    @property
    def n_prompt(self) -> int:
        return len(self.prompt_ids)

    @property
    def read_ids(self) -> np.ndarray:
        """What the decoder reads of the prompt."""
        return self.prompt_ids[self.n_encoded :]

    @property
    def n_read(self) -> int:
        """How many tokens of the prompt the decoder reads."""
        return self.n_prompt - self.n_encoded

    @property
    def opening_ids(self) -> np.ndarray:
        """What the decoder reads before it chooses a token: its prompt and what it is given."""
        return np.concatenate((self.read_ids, np.array(self.given, dtype=np.int64)))

    @property
    def n_opening(self) -> int:
        """How many tokens the decoder reads before it chooses one."""
        return self.n_read + len(self.given)

    def begin(self, limits: "Limits | None" = None) -> None:
        """Before anything is chosen, the completion is what is given; `limits` where something will be chosen."""
        self.generated = list(self.given)
        self.given_later = {} if limits is None else limits.given_later(self)

    @property
    def given_steps(self) -> list[int]:
        """Steps of the completion whose token was given rather than chosen."""
        later = sorted(step for step in self.given_later if step < len(self.generated))
        return [*range(len(self.given)), *later]

    @property
    def n_surveyed(self) -> int:
        """Prompt tokens that one stack attends over: those of the encoder, or all of them."""
        return self.n_encoded or self.n_prompt


@dataclass(frozen=True)
class Limits:
    """When a sequence ends, apart from the model ending it."""

    max_new_tokens: int
    """Beside those that are given."""
    context_length: int
    end_ids: frozenset[int]
    has_stop_string: Callable[[Sequence], bool] | None = None
    rules: tuple[StopRule, ...] = ()
    forced_first: int | None = None
    """Id that the decoder is given as its second token."""
    forced_last: int | None = None
    """Id that a sequence of `max_new_tokens` is given as its last."""

    def given_later(self, sequence: Sequence) -> dict[int, int]:
        """What the model's settings give a sequence behind its `given` ones, by step of the completion."""
        n_given, later = len(sequence.given), {}
        if self.forced_first is not None and sequence.n_opening == 1:
            later[n_given] = self.forced_first
        if self.forced_last is not None:
            later[n_given + self.max_new_tokens - 1] = self.forced_last
        return later


def encoder_matrix(batch: list[Sequence]) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder reads of a batch, `[batch column]`, and which of it is no padding.

    Padding stands on the right: encoders with learned positions count them from the first column.
    """
    lengths = np.array([sequence.n_encoded for sequence in batch])
    real = np.arange(lengths.max())[None, :] < lengths[:, None]
    ids = np.zeros(real.shape, dtype=np.int64)
    for row, sequence in enumerate(batch):
        ids[row, : sequence.n_encoded] = sequence.prompt_ids[: sequence.n_encoded]
    return ids, real
