"""What the same tokens cost with nothing observed: batches that were collected pass through the bare model again."""

import numpy as np
import torch

from ..models.model import LoadedModel
from .batch import Batch
from .reading import Reading
from .sequence import Sequence, encoder_matrix


def replay(loaded: LoadedModel, batches: list[list[Sequence]], reading: Reading, *, chunk: int) -> None:
    """Feed prompts and completions in the same batches and steps, with the next logits of every step; keep nothing.

    Sequences leave when they end, as they did. Nothing is drawn or reduced, so this is the least that a loop with a
    key-value cache has to do.
    """
    with torch.inference_mode():
        for sequences in batches:
            _replay(loaded, sequences, reading, chunk)


def _replay(loaded: LoadedModel, sequences: list[Sequence], reading: Reading, chunk: int) -> None:
    chosen = [sequence.generated[len(sequence.given) :] for sequence in sequences]
    lengths = np.array([len(tokens) for tokens in chosen])
    batch = Batch(loaded, sequences, reading, room=int(lengths.max()))
    batch.encoded = encode(loaded, sequences)
    chunks = batch.spans(0, batch.width, chunk)
    for start, end in chunks[:-1]:
        batch.read(start, end)
    states = batch.read(*chunks[-1])
    for step in range(int(lengths.max())):
        loaded.unembed(states[:, -1])
        stay = np.flatnonzero(lengths[batch.alive] > step)
        if len(stay) < len(batch.alive):
            batch.take(batch.index(stay))
        batch.append(batch.index(np.array([chosen[i][step] for i in batch.alive])), chunk)
        states = batch.read(batch.end - 1, batch.end)
    loaded.unembed(states[:, -1])


def encode(loaded: LoadedModel, sequences: list[Sequence]) -> dict[str, torch.Tensor | None]:
    """What the decoder reads of an encoder; empty where there is none."""
    if loaded.encoder is None:
        return {}
    matrix, real = encoder_matrix(sequences)
    mask = None if real.all() else torch.from_numpy(real.astype(np.int64)).to(loaded.device)
    states = loaded.encoder.module(input_ids=torch.from_numpy(matrix).to(loaded.device), attention_mask=mask)
    return {"encoder_hidden_states": states.last_hidden_state, "encoder_attention_mask": mask}
