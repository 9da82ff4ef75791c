"""The beginning that the sequences of a batch have in common, read once: its keys and values at every position."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache

from ..models.model import LoadedModel
from .batch import Batch
from .reading.reading import Reading
from .sequence import Sequence


class Prefix:
    """One sequence that has been read, in full layers: a sliding cache drops what a branch needs."""

    def __init__(self, loaded: LoadedModel, ids: np.ndarray, cache: Cache, key: tuple) -> None:
        self.loaded = loaded
        self.ids = ids
        """What an encoder read, and what the decoder did."""
        self.cache = cache
        self.key = key

    @classmethod
    def read(
        cls, batch: Batch, sequence: Sequence, n: int, chunk: int, read: Callable[[Batch, int, int], object]
    ) -> "Prefix":
        """Read the first `n` tokens of the decoder's opening of a sequence of the batch, whose edits hold here too.

        `read` reads columns of a batch; what an encoder has read for the batch is read here.
        """
        opening = sequence.opening_ids[:n]
        prompt = np.concatenate((sequence.prompt_ids[: sequence.n_encoded], opening))
        alone = Sequence(
            sequence.sequence_id, sequence.item, sequence.sample, prompt, n_encoded=sequence.n_encoded,
            edits=sequence.edits,
        )  # fmt: skip
        one = Batch(batch.loaded, [alone], batch.reading, room=0)
        # Where the prompt ends decides what an edit changes, not where what is shared does.
        one.n_prompt = np.array([sequence.n_prompt])
        one.cache = batch.loaded.whole_cache()
        one.editing = batch.editing
        one.recipes = batch.recipes[[sequence is other for other in batch.sequences]]
        first = batch.index(np.zeros(1, dtype=np.int64))
        one.encoded = {name: None if held is None else held[first] for name, held in batch.encoded.items()}
        for start, end in one.spans(0, one.width, chunk):
            read(one, start, end)
        assert one.cache is not None
        return cls(batch.loaded, prompt, one.cache, _key(sequence))

    def begins(self, sequence: Sequence, n: int) -> bool:
        """Whether it holds the first `n` tokens of the decoder's opening of a sequence, edited as that is."""
        ids = np.concatenate((sequence.prompt_ids[: sequence.n_encoded], sequence.opening_ids[:n]))
        return self.key == _key(sequence) and np.array_equal(self.ids[: len(ids)], ids)

    def seed(self, lengths: np.ndarray, width: int) -> Cache:
        """A cache whose row r holds the first `lengths[r]` positions, right-aligned in `width` columns.

        It is the state that the loop has after it has read so many columns of those rows.
        """
        columns = np.arange(width)[None, :] - (width - lengths)[:, None]
        index = torch.from_numpy(columns.clip(0)).to(self.loaded.device)
        cache = self.loaded.cache()
        if isinstance(cache, EncoderDecoderCache) and isinstance(self.cache, EncoderDecoderCache):
            crossing = self.cache.cross_attention_cache
            for layer, held in enumerate(crossing.layers):
                rows = (held.keys.expand(len(lengths), -1, -1, -1), held.values.expand(len(lengths), -1, -1, -1))  # type: ignore[union-attr]
                cache.cross_attention_cache.update(*rows, layer)
                cache.is_updated[layer] = True
            _fill(cache.self_attention_cache, self.cache.self_attention_cache, index)
        else:
            _fill(cache, self.cache, index)
        return cache


def _fill(cache: Cache, source: Cache, index: Int[Tensor, "row column"]) -> None:
    for layer, held in enumerate(source.layers):
        assert isinstance(held, CacheLayerMixin) and held.keys is not None and held.values is not None
        keys, values = (states[0][:, index].transpose(0, 1) for states in (held.keys, held.values))
        cache.update(keys, values, layer)


def _key(sequence: Sequence) -> tuple:
    """What must be equal beside the tokens: how they are parted, and how they are edited."""
    return sequence.n_encoded, sequence.n_prompt, tuple(edit.digest for edit in sequence.edits)


def shared(sequences: list[Sequence], lengths: np.ndarray) -> bool:
    """Whether the first `lengths[r]` tokens of the decoder's opening of row r are those of the longest of them.

    What an encoder reads and what is edited must be equal too.
    """
    longest = sequences[int(lengths.argmax())]
    return len(sequences) > 1 and all(
        np.array_equal(sequence.opening_ids[:n], longest.opening_ids[:n])
        and np.array_equal(sequence.prompt_ids[: sequence.n_encoded], longest.prompt_ids[: longest.n_encoded])
        and _key(sequence) == _key(longest)
        for sequence, n in zip(sequences, lengths, strict=True)
    )


def can_share(loaded: LoadedModel, reading: Reading, longest: int) -> bool:
    """Whether keys and values are all that a model remembers, and sequences of so many tokens are read freely."""
    free = not (reading.whole_prompts or reading.uncached or reading.alone or reading.column_scale is not None)
    return free and (reading.switch is None or longest <= reading.switch) and loaded.whole_cache() is not None
