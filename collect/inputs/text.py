"""Token ids to text: display strings, and where in the completion each token ends."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers.decoders import DecodeStream


class TokenText:
    """Decodes with one tokenizer; remembers the display string of every token it has met."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._display: dict[int, str] = {}

    def display(self, ids: np.ndarray) -> list[str]:
        """Each token decoded alone; pieces of a character show as the replacement sign."""
        known = self._display
        for token_id in np.unique(ids).tolist():
            if token_id not in known:
                known[token_id] = self.tokenizer.decode([token_id])
        return [known[token_id] for token_id in ids.tolist()]

    def completion(self, ids: Sequence[int]) -> str:
        """The generated text without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def char_ends(self, ids: Sequence[int], completion: str) -> np.ndarray:
        """Characters of `completion` that are complete after each token."""
        ends = self._streamed(ids, completion)
        return self._by_prefix(ids, completion) if ends is None else ends

    def _streamed(self, ids: Sequence[int], completion: str) -> np.ndarray | None:
        """One pass with the tokenizer's own incremental decoder; None if its text is not the completion."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        stream, length, pieces = DecodeStream(skip_special_tokens=True), 0, []
        held: list[int] = []
        ends = np.empty(len(ids), dtype=np.int32)
        for i, token_id in enumerate(ids):
            held.append(int(token_id))
            piece = stream.step(backend, held[-1])
            if piece:
                pieces.append(piece)
                length += len(piece)
                held = []
            ends[i] = length
            if held:
                # The decoder waits for the rest of a character, also with the whole ones before it: " \xe2\x80".
                whole = _complete(self.completion(held))
                ends[i] += len(whole) if completion.startswith(whole, length) else 0
        done = int(ends[-1]) if len(ids) else 0
        return ends if completion.startswith("".join(pieces)) and not _complete(completion[done:]) else None

    def _by_prefix(self, ids: Sequence[int], completion: str) -> np.ndarray:
        """Decode every prefix and count what it shares with the completion; quadratic, for odd tokenizers only."""
        ends = np.empty(len(ids), dtype=np.int32)
        for i in range(len(ids)):
            ends[i] = len(os.path.commonprefix((_complete(self.completion(ids[: i + 1])), completion)))
        return np.maximum.accumulate(ends) if len(ends) else ends


def _complete(text: str) -> str:
    """The text without the signs at its end that stand for the bytes of an unfinished character."""
    return text.rstrip("\ufffd")
