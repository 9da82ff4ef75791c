"""Reads what comes before the first choice: the prompt with the encoder, if there is one, and the decoder's opening."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from torch import Tensor

from ..observing.budget import Budget
from ..observing.observation import ObservedModel, ObservedStack
from ..observing.summaries import distributions
from ..observing.transfer import to_host
from .batch import Batch
from .blocks import Block, EdgeBlock, PredictionBlock, StateBlock
from .prefix import Prefix, can_share, shared
from .sequence import encoder_matrix
from .timings import Timings

LEAST_SHARED = 8
"""Tokens; copying fewer costs as much as reading them."""


class Prefill:
    """The reading of one batch; iterate `run`, then `last_states` are those of the last column.

    `reads_only` says that nothing will be generated, so that the last token read is the last one. `prefix` is one that
    was read for another batch.
    """

    def __init__(
        self,
        observed: ObservedModel,
        batch: Batch,
        *,
        reads_only: bool,
        budget: Budget,
        timings: Timings,
        prefix: Prefix | None = None,
    ) -> None:
        self.observed = observed
        self.loaded = observed.loaded
        self.batch = batch
        self.sequences = [batch.sequences[index] for index in batch.alive]
        self.n_prompt, self.n_given = batch.n_prompt[batch.alive], batch.n_given[batch.alive]
        self.observed_from = batch.observed_from[batch.alive]
        self.reads_only = reads_only
        self.budget = budget
        self.timings = timings
        self.prefix = prefix

    def run(self) -> Iterator[Block]:
        """Read everything; yields the rows of what is observed."""
        if self.observed.encoder is not None:
            self.observed.encoder.begin(self.batch.encoder_axis())
            yield from self._encode(self.observed.encoder)
        yield from self._decode()

    def _encode(self, encoder: ObservedStack) -> Iterator[Block]:
        """Read the prompts with the encoder, once and whole; the decoder reads its states at every step."""
        matrix, real = encoder_matrix(self.sequences)
        ids = self.batch.index(matrix)
        mask = None if real.all() else self.batch.index(real.astype(np.int64))
        observed = self.observed.kept.prompt and not self.observed_from.any()
        if self.batch.encoder_editing is not None:
            columns = np.broadcast_to(np.arange(real.shape[1]), real.shape)
            n_encoded = self.batch.n_encoded[self.batch.alive]
            self.batch.encoder_editing.expect(columns, n_encoded, self.batch.alive)
        with self.timings.measure("encode"):
            if observed:
                states = encoder.forward(0, ids.shape[1], in_prompt=True, input_ids=ids, attention_mask=mask)
            else:
                states = encoder.pass_over(0, ids.shape[1], input_ids=ids, attention_mask=mask)
        self.batch.encoded = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        if observed:
            select, origin = np.flatnonzero(real), np.zeros_like(self.batch.origin)
            block = self._prompt_states(encoder, select, 0, ids.shape[1], origin=origin)
            self._keep_basin(encoder)
            yield block
            yield from self._prompt_edges(encoder)
        encoder.forget()

    def _decode(self) -> Iterator[Block]:
        """Feed the prompt in chunks; yields the rows of each that is observed."""
        decoder, batch = self.observed.decoder, self.batch
        firsts, predicting = self._firsts()
        observed_from = int(predicting.min())
        if not self._seed(observed_from):
            for start, end in batch.spans(0, observed_from, self.budget.chunk):
                with self.timings.measure("prefill"):
                    pass_over(decoder, batch, start, end)
        for start, end in batch.spans(observed_from, batch.width, self.budget.chunk):
            with self.timings.measure("prefill"):
                states = forward(decoder, batch, start, end, in_prompt=True)
            select = _real(firsts, start, end)
            block = self._prompt_states(decoder, select, start, end, origin=batch.origin)
            if end == batch.width:
                self._keep_basin(decoder)
            yield block
            self.last_states = states[:, -1]
            if self.observed.kept.tokens:
                yield from self._prompt_predictions(states, start, end, predicting)
        yield from self._prompt_edges(decoder)

    def _seed(self, width: int) -> bool:
        """Begin with `width` columns that are read already, where all rows begin alike; else leave all as it is."""
        batch, decoder = self.batch, self.observed.decoder
        lengths = width - batch.pads
        longest = int(lengths.argmax())
        sequence, n = self.sequences[longest], int(lengths[longest])
        if n < LEAST_SHARED or not can_share(self.loaded, batch.reading, batch.ids.shape[1]):
            return False
        known = self.prefix is not None and self.prefix.begins(sequence, n)
        if not (shared(self.sequences, lengths) or (known and len(self.sequences) == 1)):
            return False
        with self.timings.measure("prefill"):
            if self.prefix is None or not known:
                self.prefix = Prefix.read(batch, sequence, n, self.budget.chunk, partial(pass_over, decoder))
            batch.cache = self.prefix.seed(lengths, width)
        # What was read before stands in another batch.
        decoder.begin(batch.axis, batch.encoder_axis())
        return True

    def _firsts(self) -> tuple[np.ndarray, np.ndarray]:
        """The first column of each row whose state is observed, and the first whose prediction is.

        Without the prompt that is its last token, which predicts the first of the completion. The token where a branch
        begins is predicted by the one before it, whose state is the parent's.
        """
        batch = self.batch
        if not self.observed.kept.prompt:
            firsts = batch.width - self.n_given - 1
            return firsts, firsts
        begins = self.observed_from - batch.origin
        return np.maximum(batch.pads, begins), np.maximum(batch.pads, begins - 1)

    def _prompt_edges(self, stack: ObservedStack) -> Iterator[Block]:
        for kind, edges in stack.prompt_edges().items():
            host = to_host(edges)
            row = self.batch.alive[host.pop("row")]
            yield EdgeBlock(row, host.pop("query"), host, stack.stack.name, kind)

    def _prompt_states(
        self, stack: ObservedStack, select: np.ndarray, start: int, end: int, *, origin: np.ndarray
    ) -> StateBlock:
        """Rows of a pass over prompt columns start..end of one stack; `select`: flat indexes of its real tokens."""
        n_new = end - start
        rows, columns = select // n_new, select % n_new + start
        whole = len(select) == n_new * len(self.sequences)
        index = None if whole else self.batch.index(select)
        positions = columns + origin[rows]
        last = select[positions == (self.n_prompt + self.n_given)[rows] - 1]
        scopes = {None: index, "prompt": index}
        members: dict[str, np.ndarray] = {}
        if self.n_given.any():
            in_prompt = positions < self.n_prompt[rows]
            members = {"prompt": in_prompt, "generated": ~in_prompt}
            scopes |= {scope: self.batch.index(select[mask]) for scope, mask in members.items()}
        if self.reads_only:
            scopes["last"] = self.batch.index(last)
            members["last"] = np.isin(select, last)
        with self.timings.measure("summaries"):
            values = to_host(stack.rows(index, scopes))
        return StateBlock(self.batch.alive[rows], positions, values, stack.stack.name, members)

    def _keep_basin(self, stack: ObservedStack) -> None:
        """Give every sequence the basin ratios of its prompt, which has been read to its end."""
        basin = stack.basin_ratio()
        if basin is not None:
            for sequence, ratio in zip(self.sequences, basin.cpu().numpy(), strict=True):
                sequence.basin = ratio

    def _prompt_predictions(self, states: Tensor, start: int, end: int, firsts: np.ndarray) -> Iterator[Block]:
        """The distribution behind every token that the chunk predicts and that is read, a few rows at a time."""
        select = _real(firsts, start, min(end, self.batch.width - 1), n_new=end - start)
        rows, columns = select // (end - start), select % (end - start) + start
        flat = states.flatten(0, 1)
        for first in range(0, len(select), self.budget.logit_rows):
            part = slice(first, first + self.budget.logit_rows)
            with self.timings.measure("prompt_logits"):
                targets = self.batch.ids[self.batch.index(rows[part]), self.batch.index(columns[part] + 1)]
                logits = self.loaded.unembed(flat[self.batch.index(select[part])])
                block_bytes = self.budget.block_bytes
                found = distributions(logits, targets, k=self.observed.kept.topk, block_bytes=block_bytes)
                host = to_host(found._asdict())
            positions = columns[part] + 1 + self.batch.origin[rows[part]]
            yield PredictionBlock(self.batch.alive[rows[part]], positions, host)


def forward(decoder: ObservedStack, batch: Batch, start: int, end: int, *, in_prompt: bool) -> Tensor:
    """Read columns start..end of the batch, observed; returns their final-normed states."""
    with batch.passing(start, end):
        return decoder.forward(start, end, in_prompt=in_prompt, again=batch.again(start), **batch.inputs(start, end))


def pass_over(decoder: ObservedStack, batch: Batch, start: int, end: int) -> None:
    """Read columns start..end of the batch without observing them."""
    with batch.passing(start, end):
        decoder.pass_over(start, end, again=batch.again(start), **batch.inputs(start, end))


def _real(pads: np.ndarray, start: int, end: int, n_new: int | None = None) -> np.ndarray:
    """Flat indexes (row x chunk column) of the tokens in columns start..end that are not padding."""
    n_new = end - start if n_new is None else n_new
    columns = np.arange(start, end)
    rows, offsets = np.nonzero(columns[None, :] >= pads[:, None])
    return rows * n_new + offsets
