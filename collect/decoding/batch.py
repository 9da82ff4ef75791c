"""Sequences on their way through the model together: their ids, padding, mask, axis, cache, and which are alive."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from ...lake.values import Json
from ..models.cache import beside, join_caches, keep_columns, select_rows
from ..models.editing.edits import Editing
from ..models.model import LoadedModel
from ..models.stack import Stack
from ..observing.axis import Axis, columns_of
from .reading.reading import Reading
from .sequence import Sequence


class Batch:
    """What the decoder reads, left-padded into one matrix with room for the completions.

    Tensors, `alive` and `pads` have one row per sequence that is alive; `alive[row]` is its index in `sequences`, as
    which the other arrays are indexed.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sequences: list[Sequence],
        reading: Reading,
        *,
        room: int,
        members: np.ndarray | None = None,
    ) -> None:
        """Lay out the sequences, or those of them that `members` names, with `room` columns for new tokens."""
        self.loaded = loaded
        self.stack: Stack = loaded.decoder
        self.sequences = sequences
        self.reading = reading
        self.room = room
        self.alive = np.arange(len(sequences)) if members is None else members
        self.recipes = np.arange(len(sequences))
        """Of each sequence, which of those that are edited it is."""
        self.n_encoded = np.array([sequence.n_encoded for sequence in sequences])
        self.n_prompt = np.array([sequence.n_prompt for sequence in sequences])
        self.n_given = np.array([len(sequence.given) for sequence in sequences])
        n_read = np.array([sequences[index].n_opening for index in self.alive])
        self.observed_from = np.array([sequence.observed_from for sequence in sequences])
        self.width = int(n_read.max())
        """Columns of what is read before a token is chosen."""
        self.end = self.width
        self.pads = self.width - n_read
        ids = np.zeros((len(self.alive), self.width + room), dtype=np.int64)
        for row, index in enumerate(self.alive):
            own = sequences[index].opening_ids
            # Padding repeats an id of the row itself: a repetition penalty must not punish a foreign token.
            ids[row, : self.pads[row]] = own[0]
            ids[row, self.pads[row] : self.width] = own
        self.ids: Int[Tensor, "row column"] = self.index(ids)
        self._place()
        self.encoded: dict[str, Tensor | None] = {}
        self.editing: Editing | None = None
        self.encoder_editing: Editing | None = None
        """What is told where each pass stands; its hooks are somebody else's."""
        self._beyond = reading.switch is not None and int(n_read.max()) > reading.switch
        self._forget()

    def index(self, values: np.ndarray) -> Tensor:
        """A host array on the model's device."""
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.loaded.device)

    @property
    def origin(self) -> np.ndarray:
        """Where the first column of each row stands on its axis of positions."""
        return self.n_encoded[self.alive] - self.pads

    def _place(self) -> None:
        """Say where the columns stand: which of them are padding, and on the axis of positions."""
        self.mask: Tensor | None = None
        if self.pads.any():
            columns = np.arange(self.ids.shape[1])[None, :]
            self.mask = self.index((columns >= self.pads[:, None]).astype(np.int64))
        own = (self.origin, self.n_prompt[self.alive], self.n_encoded[self.alive])
        self.axis = Axis(*map(self.index, own))

    def encoder_axis(self) -> Axis:
        """The columns of what an encoder reads of the same sequences."""
        n_encoded = self.n_encoded[self.alive]
        start = self.index(np.zeros_like(n_encoded))
        return Axis(start, self.index(n_encoded), start)

    def _forget(self) -> None:
        """Start with an empty cache."""
        self.cache: Cache | None = None if self.reading.uncached else self.loaded.cache()

    def spans(self, start: int, end: int, chunk: int) -> list[tuple[int, int]]:
        """Half-open ranges of columns that cover start..end, each to be read in one pass."""
        size = max(1, end - start) if self.reading.whole_prompts or self.reading.uncached else chunk
        return [(first, min(first + size, end)) for first in range(start, end, size)]

    def again(self, start: int) -> int:
        """How many columns before `start` a pass reads once more."""
        return start if self.reading.uncached else 0

    def inputs(self, start: int, end: int) -> Json:
        """What the decoder's forward takes to read columns start..end."""
        first = start - self.again(start)
        offered: Json = {
            "attention_mask": None if self.mask is None else self.mask[:, :end],
            "use_cache": self.cache is not None,
        }
        if self.stack.takes_positions:
            offered["position_ids"] = self._positions(first, end)
        if self.cache is not None and self.stack.cache_name is not None:
            offered[self.stack.cache_name] = self.cache
        inputs = {name: value for name, value in offered.items() if self.stack.accepts(name)}
        return {"input_ids": self.ids[:, first:end], **inputs, **self.encoded}

    def _positions(self, start: int, end: int) -> Int[Tensor, "row column"]:
        """Positions as the model counts them."""
        positions = self.axis.positions(columns_of(end - start, start, self.ids.device))
        padding = self.stack.padding_id
        if padding is None:
            return positions.clamp_min(0)
        # RoBERTa and its kin count the tokens that are not the padding token, from its id on.
        counted = self.ids[:, :end] != padding
        if self.mask is not None:
            counted = counted & self.mask[:, :end].bool()
        return (counted.cumsum(-1) * counted + padding)[:, start:end]

    def read(self, start: int, end: int) -> Float[Tensor, "row column d_model"]:
        """Final-normed states of columns start..end, observed by nobody."""
        with self.passing(start, end):
            states = self.stack.module(**self.inputs(start, end)).last_hidden_state
        return states[:, self.again(start) :]

    @contextmanager
    def passing(self, start: int, end: int) -> Iterator[None]:
        """Inside the block columns start..end are read: edited, with the rotary factors of the sequences' length."""
        if self.editing is not None:
            columns = np.arange(start - self.again(start), end)
            positions = columns + self.origin[:, None]
            self.editing.expect(positions, self.n_prompt[self.alive], self.recipes[self.alive])
        switch = self.stack.switch
        with switch.beyond() if self._beyond and switch is not None else nullcontext():
            yield

    def append(self, token_ids: Int[Tensor, " row"], chunk: int) -> None:
        """Take the next token of every row, to be read as the last column.

        Where it makes the sequences longer than their rotary factors are made for, all positions have other factors
        from here on, and what was read before is read anew, in chunks.
        """
        self.ids[:, self.end] = token_ids
        self.end += 1
        switch = self.reading.switch
        if switch is not None and not self._beyond and self.end - int(self.pads.min()) > switch:
            self._beyond = True
            self._forget()
            for start, end in self.spans(0, self.end - 1, chunk):
                self.read(start, end)

    def take(self, rows: Int[Tensor, " taken"]) -> None:
        """Go on with these rows, which may be fewer, in another order, or repeated.

        Columns that are padding for all of them are dropped, where sequences may join.
        """
        host = rows.cpu().numpy()
        self.alive, self.pads = self.alive[host], self.pads[host]
        dropped = int(self.pads.min()) if len(host) and self.reading.may_join else 0
        self.ids = self.ids[rows, dropped:]
        self.pads, self.end = self.pads - dropped, self.end - dropped
        self._place()
        self.encoded = {name: None if held is None else held[rows] for name, held in self.encoded.items()}
        if self.cache is not None and len(host):
            if dropped:
                keep_columns(self.cache, self.end)
            select_rows(self.cache, rows)

    def join(self, other: "Batch") -> None:
        """Go on with the rows of another batch of the same sequences too, of which everything has been read as here.

        Their last columns come to stand beside each other.
        """
        width = max(int((batch.end - batch.pads).max()) for batch in (self, other))
        if self.cache is not None and other.cache is not None:
            join_caches(self.cache, other.cache, width)
        self.ids = torch.cat([batch._moved(width, self.room) for batch in (self, other)])
        self.pads = np.concatenate([batch.pads + width - batch.end for batch in (self, other)])
        self.alive = np.concatenate((self.alive, other.alive))
        self.end = width
        self._place()
        if self.encoded:
            self.encoded = self._encoded_beside(other)

    def _moved(self, width: int, room: int) -> Int[Tensor, "row column"]:
        """The ids with the last column read as column `width` - 1, and `room` columns behind it."""
        first = self.ids.gather(1, self.index(self.pads)[:, None])
        moved = first.repeat(1, width + room)
        n = min(width, self.end)
        moved[:, width - n : width] = self.ids[:, self.end - n : self.end]
        return moved

    def _encoded_beside(self, other: "Batch") -> dict[str, Tensor | None]:
        """What was read of an encoder, of the rows of both batches, padded on the right."""
        read = (batch.encoded["encoder_hidden_states"] for batch in (self, other))
        states = beside([held for held in read if held is not None], dim=1)
        real = np.arange(states.shape[1])[None, :] < self.n_encoded[self.alive][:, None]
        mask = None if real.all() else self.index(real.astype(np.int64))
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}
