"""How the sequences of a model must be read so that its numbers are those of one plain pass over each of them."""

from dataclasses import dataclass

Group = tuple[tuple[int, int] | None, bool]
"""What sequences that share a batch have in common: their lengths, if these must be equal, and being long."""


@dataclass(frozen=True)
class Reading:
    """Limits on how sequences share passes; without any, prompts of all lengths are read in chunks, through a cache."""

    whole_prompts: bool = False
    """A prompt is read in one pass, not in chunks."""
    equal_lengths: bool = False
    """Only sequences of equal length share a batch: there is no padding."""
    alone: bool = False
    """Every sequence is a batch of its own."""
    uncached: bool = False
    """Every pass reads the whole sequence again: nothing is remembered between passes."""
    switch: int | None = None
    """A sequence of more tokens is computed with other rotary factors, at all of its positions."""
    separate: bool = False
    """Batches are read one after the other: no sequence takes the place of one that has ended."""
    column_scale: int | None = None
    """Behind this many columns the model scales its attention by the column instead of the position."""

    @property
    def may_join(self) -> bool:
        """Whether sequences may take the places of others that have ended."""
        strict = self.separate or self.equal_lengths or self.alone or self.uncached
        return not strict and self.column_scale is None

    def joins(self, group: Group) -> bool:
        """Whether sequences of a group take the places of those of it that have ended."""
        return self.may_join and group[0] is None

    def group(self, n_encoded: int, n_read: int, most_new: int) -> Group:
        """Sequences of equal groups may share a batch.

        Args: tokens that an encoder reads, that the decoder reads before it generates, and that it may generate.
        """
        longest = n_read + most_new
        crosses = self.switch is not None and n_read <= self.switch < longest
        scaled = self.column_scale is not None and longest >= self.column_scale
        return (
            (n_encoded, n_read) if self.equal_lengths or crosses or scaled else None,
            self.switch is not None and n_read > self.switch,
        )

    @property
    def limits(self) -> tuple[str, ...]:
        """The limits in words; empty without any."""
        words = {
            "prompts are read whole": self.whole_prompts,
            "only sequences of equal length share a batch": self.equal_lengths and not self.alone,
            "every sequence is a batch of its own": self.alone,
            "the whole sequence is read again at every step": self.uncached,
            "batches are read one after the other, without taking others in": self.separate,
        }
        return tuple(text for text, holds in words.items() if holds)
