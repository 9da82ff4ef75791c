"""What a source of prompts is: a sequence of them that can be read more than once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ...lake.values import Json
from .fields import Prompt


class PromptSource(Protocol):
    """A sequence of prompts that can be read more than once."""

    @property
    def dataset(self) -> str | None:
        """Name of the dataset or file."""
        ...

    @property
    def split(self) -> str | None:
        """Split of the dataset."""
        ...

    def describe(self) -> Json:
        """What run.json needs to find the same prompts again, and to notice if they changed."""
        ...

    def __iter__(self) -> Iterator[Prompt]: ...


@dataclass(frozen=True)
class SourceOverAnother:
    """What changes the prompts of another source; the dataset stays that one's."""

    source: PromptSource

    @property
    def dataset(self) -> str | None:
        return self.source.dataset

    @property
    def split(self) -> str | None:
        return self.source.split

    def describe(self) -> Json:
        return self.source.describe()
