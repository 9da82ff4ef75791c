"""What the same tokens cost with nothing observed: batches that were collected pass through the bare model again."""

from dataclasses import dataclass

import numpy as np
import torch

from ...models.model import LoadedModel
from ..batch import Batch
from ..sequence import Sequence, encoder_matrix
from ..waiting import Waiting
from .reading import Reading


def replay(
    loaded: LoadedModel, batches: list[list[Sequence]], reading: Reading, *, chunk: int, n_rows: int | None = None
) -> None:
    """Feed prompts and completions in the same batches and steps, with the next logits of every step; keep nothing.

    Sequences leave when they end, as they did, and others take their places where more than `n_rows` share a batch.
    Nothing is drawn or reduced, so this is the least that a loop with a key-value cache has to do.
    """
    with torch.inference_mode():
        for sequences in batches:
            _Replay(loaded, sequences, reading, chunk).run(n_rows or len(sequences))


@dataclass
class _Replay:
    """One batch that was collected, to be read again."""

    loaded: LoadedModel
    sequences: list[Sequence]
    reading: Reading
    chunk: int

    def __post_init__(self) -> None:
        self.chosen = [sequence.generated[len(sequence.given) :] for sequence in self.sequences]
        self.lengths = np.array([len(tokens) for tokens in self.chosen])

    def run(self, n_rows: int) -> None:
        """Read everything, at most `n_rows` sequences at a time."""
        waiting = Waiting(len(self.sequences), n_rows)
        batch, n_read = self._opened(waiting.take(0)), np.zeros_like(self.lengths)
        while len(batch.alive):
            stay = np.flatnonzero(self.lengths[batch.alive] > n_read[batch.alive])
            if len(stay) < len(batch.alive):
                batch.take(batch.index(stay))
            if len(joining := waiting.take(len(stay))):
                other = self._opened(joining)
                if len(stay):
                    batch.join(other)
                else:
                    batch = other
            elif len(stay):
                tokens = [self.chosen[index][n_read[index]] for index in batch.alive]
                batch.append(batch.index(np.array(tokens)), self.chunk)
                n_read[batch.alive] += 1
                self.loaded.unembed(batch.read(batch.end - 1, batch.end)[:, -1])

    def _opened(self, members: np.ndarray) -> Batch:
        """A batch of some of the sequences, read as far as the first choice."""
        batch = Batch(self.loaded, self.sequences, self.reading, room=int(self.lengths.max()), members=members)
        batch.encoded = encode(self.loaded, [self.sequences[index] for index in members])
        *before, last = batch.spans(0, batch.width, self.chunk)
        for start, end in before:
            batch.read(start, end)
        self.loaded.unembed(batch.read(*last)[:, -1])
        return batch


def encode(loaded: LoadedModel, sequences: list[Sequence]) -> dict[str, torch.Tensor | None]:
    """What the decoder reads of an encoder; empty where there is none."""
    if loaded.encoder is None:
        return {}
    matrix, real = encoder_matrix(sequences)
    mask = None if real.all() else torch.from_numpy(real.astype(np.int64)).to(loaded.device)
    states = loaded.encoder.module(input_ids=torch.from_numpy(matrix).to(loaded.device), attention_mask=mask)
    return {"encoder_hidden_states": states.last_hidden_state, "encoder_attention_mask": mask}
