"""How the sequences of a model must be read so that its numbers are those of one plain pass over each of them."""

from collections.abc import Hashable
from dataclasses import dataclass


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
    column_scale: int | None = None
    """Behind this many columns the model scales its attention by the column instead of the position."""

    def group(self, n_encoded: int, n_read: int, most_new: int) -> Hashable:
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
        }
        return tuple(text for text, holds in words.items() if holds)
