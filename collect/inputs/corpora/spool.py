"""Tokenised prompts on their way from planning to collecting: in a temporary file, so that none is held in memory."""

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from ....lake.values import Row
from ..fields import Prompt
from ..tokenizing.tokenized import GROUP, TokenizedPrompt

_SCHEMA = pa.schema(
    [
        ("prompt", pa.int64()),
        ("text", pa.string()),
        ("rendered", pa.string()),
        ("ids", pa.list_(pa.int64())),
        ("char_ends", pa.list_(pa.int32())),
        ("item_offset", pa.int64()),
        ("given", pa.list_(pa.int64())),
        ("retokenised", pa.bool_()),
    ]
)


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
    """Work items, written once and then read; the prompts themselves are read from their source again."""

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
        with pa.ipc.new_stream(self._file, _SCHEMA) as writer:
            while group := list(islice(items, GROUP)):
                rows = []
                for item in group:
                    number, last = number + (item.prompt is not last), item.prompt
                    rows.append(_row(number, item))
                lengths += [_lengths(item) for item in group]
                writer.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
        return ItemLengths(*np.array(lengths, dtype=np.int64).reshape(-1, 3).T)

    def items(self, prompts: Iterable[Prompt]) -> Iterator[TokenizedPrompt]:
        """The work items with their prompts, which must be those that were tokenised."""
        self._file.seek(0)
        source = enumerate(prompts)
        number, prompt = -1, None
        for batch in pa.ipc.open_stream(self._file):
            ids, ends = batch["ids"], batch["char_ends"]
            rows = batch.select(["prompt", "text", "rendered", "item_offset", "given", "retokenised"]).to_pylist()
            for i, row in enumerate(rows):
                while prompt is None or number < row["prompt"]:
                    number, prompt = next(source)
                text = prompt.text if row["text"] is None else row["text"]
                own_ends = ends[i].values.to_numpy() if ends[i].is_valid else None
                yield TokenizedPrompt(
                    prompt,
                    text,
                    row["rendered"],
                    ids[i].values.to_numpy(),
                    own_ends,
                    row["item_offset"],
                    tuple(row["given"]),
                    row["retokenised"],
                )


def _lengths(item: TokenizedPrompt) -> tuple[int, int, int]:
    beginning = item.prompt.beginning
    return len(item.ids), len(item.given), 0 if beginning is None else beginning.observed_from


def _row(number: int, item: TokenizedPrompt) -> Row:
    return {
        "prompt": number,
        "text": None if item.text == item.prompt.text else item.text,
        "rendered": item.rendered,
        "ids": item.ids,
        "char_ends": item.char_ends,
        "item_offset": item.item_offset,
        "given": item.given,
        "retokenised": item.retokenised,
    }
