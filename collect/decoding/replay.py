"""What the same tokens cost with nothing observed: batches that were collected pass through the bare model again."""

import numpy as np
import torch

from ..models.model import LoadedModel
from .sequence import Sequence, encoder_matrix


def replay(loaded: LoadedModel, batches: list[list[Sequence]], *, chunk: int) -> None:
    """Feed prompts and completions in the same batches and steps, with the next logits of every step; keep nothing.

    Sequences leave when they end, as they did. Nothing is drawn or reduced, so this is the least that a loop with a
    key-value cache has to do.
    """
    with torch.inference_mode():
        for batch in batches:
            _replay_batch(loaded, batch, chunk)


def _replay_batch(loaded: LoadedModel, batch: list[Sequence], chunk: int) -> None:
    prompts = [sequence.prompt_ids[sequence.n_encoded :] for sequence in batch]
    width = max(map(len, prompts))
    pads = np.array([width - len(prompt) for prompt in prompts])
    lengths = np.array([len(sequence.generated) for sequence in batch])
    ids = np.zeros((len(batch), width + int(lengths.max(initial=0))), dtype=np.int64)
    for row, (sequence, prompt) in enumerate(zip(batch, prompts, strict=True)):
        ids[row, pads[row] : width] = prompt
        ids[row, width : width + lengths[row]] = sequence.generated
    cache, encoded = loaded.cache(), _encoded(loaded, batch)
    alive = np.arange(len(batch))
    ends = [*range(chunk, width, chunk), *range(width, ids.shape[1] + 1)]
    start = 0
    for end in ends:
        if end > width and (lengths[alive] < end - width).any():
            stay = np.flatnonzero(lengths[alive] >= end - width)
            alive = alive[stay]
            rows = torch.from_numpy(stay).to(loaded.device)
            cache.batch_select_indices(rows)
            encoded = {name: None if held is None else held[rows] for name, held in encoded.items()}
        columns = np.arange(start, end)
        mask = np.arange(end)[None, :] >= pads[alive, None] if pads.any() else None
        inputs = {"attention_mask": None if mask is None else torch.from_numpy(mask.astype(np.int64)).to(loaded.device)}
        if loaded.decoder.takes_positions:
            positions = np.maximum(columns - pads[alive, None], 0)
            inputs["position_ids"] = torch.from_numpy(positions).to(loaded.device)
        states = loaded.decoder.module(
            input_ids=torch.from_numpy(ids[alive, start:end]).to(loaded.device),
            past_key_values=cache,
            use_cache=True,
            **inputs,
            **encoded,
        ).last_hidden_state
        if end >= width:
            loaded.unembed(states[:, -1])
        start = end


def _encoded(loaded: LoadedModel, batch: list[Sequence]) -> dict[str, torch.Tensor | None]:
    """What the decoder reads of an encoder."""
    if loaded.encoder is None:
        return {}
    matrix, real = encoder_matrix(batch)
    mask = None if real.all() else torch.from_numpy(real.astype(np.int64)).to(loaded.device)
    states = loaded.encoder.module(input_ids=torch.from_numpy(matrix).to(loaded.device), attention_mask=mask)
    return {"encoder_hidden_states": states.last_hidden_state, "encoder_attention_mask": mask}
