"""Tokenised prompts on their way from planning to collecting: in a temporary file, so that none is held in memory.

Not in Arrow: making the first array, it would import pandas, which takes longer than planning a run.
"""

import json
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ....lake.values import Row
from ..fields import Prompt
from ..tokenizing.tokenized import GROUP, TokenizedPrompt

_IDS, _ENDS = np.dtype(np.int64), np.dtype(np.int32)


@dataclass(frozen=True)
class ItemLengths:
    """Tokens per work item: of its prompt, given behind it, and of those together the first that nobody observes."""

    prompt: np.ndarray
    given: np.ndarray
    unobserved: np.ndarray

    @classmethod
    def of_prompts(cls, lengths: np.ndarray) -> "ItemLengths":
        """Prompts with nothing behind them."""
        return cls(lengths, np.zeros_like(lengths), np.zeros_like(lengths))


class Spool:
    """Work items, written once and then read; the prompts themselves are read from their source again.

    A group of items is a line of JSON, and behind it the ids of all of them and then where their tokens end.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        # Whoever planned may never collect: the room on disk goes back with the object.
        weakref.finalize(self, self._file.close)

    def fill(
        self, prompts: Iterable[Prompt], tokenize: Callable[[Iterable[Prompt]], Iterable[TokenizedPrompt]]
    ) -> ItemLengths:
        """Tokenise every prompt; returns how long each work item is."""
        lengths: list[tuple[int, int, int]] = []
        items = iter(tokenize(prompts))
        number, last = -1, None
        while group := list(islice(items, GROUP)):
            rows = []
            for item in group:
                number, last = number + (item.prompt is not last), item.prompt
                rows.append(_row(number, item))
            lengths += [_lengths(item) for item in group]
            ends = [item.char_ends for item in group if item.char_ends is not None]
            self._file.write(json.dumps(rows).encode() + b"\n")
            self._file.write(b"".join(item.ids.astype(_IDS, copy=False).tobytes() for item in group))
            self._file.write(b"".join(one.astype(_ENDS, copy=False).tobytes() for one in ends))
        return ItemLengths(*np.array(lengths, dtype=np.int64).reshape(-1, 3).T)

    def items(self, prompts: Iterable[Prompt]) -> Iterator[TokenizedPrompt]:
        """The work items with their prompts, which must be those that were tokenised."""
        self._file.seek(0)
        source = enumerate(prompts)
        number, prompt = -1, None
        while line := self._file.readline():
            rows = json.loads(line)
            ids = iter(self._read([row["n_ids"] for row in rows], _IDS))
            ends = iter(self._read([row["n_ends"] for row in rows if row["n_ends"] is not None], _ENDS))
            for row in rows:
                while prompt is None or number < row["prompt"]:
                    number, prompt = next(source)
                yield TokenizedPrompt(
                    prompt,
                    prompt.text if row["text"] is None else row["text"],
                    row["rendered"],
                    next(ids),
                    None if row["n_ends"] is None else next(ends),
                    row["item_offset"],
                    tuple(row["given"]),
                    row["retokenised"],
                )

    def _read(self, lengths: list[int], kind: np.dtype) -> list[np.ndarray]:
        """The next numbers of the file, cut into pieces of these lengths."""
        if not lengths:
            return []
        numbers = np.frombuffer(self._file.read(sum(lengths) * kind.itemsize), kind)
        return np.split(numbers, np.cumsum(lengths)[:-1])


def _lengths(item: TokenizedPrompt) -> tuple[int, int, int]:
    beginning = item.prompt.beginning
    return len(item.ids), len(item.given), 0 if beginning is None else beginning.observed_from


def _row(number: int, item: TokenizedPrompt) -> Row:
    return {
        "prompt": number,
        "text": None if item.text == item.prompt.text else item.text,
        "rendered": item.rendered,
        "n_ids": len(item.ids),
        "n_ends": None if item.char_ends is None else len(item.char_ends),
        "item_offset": item.item_offset,
        "given": [int(token) for token in item.given],
        "retokenised": item.retokenised,
    }
