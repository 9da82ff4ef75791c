"""Words as vectors of final-normed space: the rows of the unembedding, or a list of words read by the model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from ...lake.errors import ConfigError, NotFoundError, UsageError
from ..decoding.reading.check import choose_reading
from ..decoding.sequence import Sequence as Row
from ..inputs.tokenizing.text import TokenText
from ..models.model import LoadedModel
from ..stored_sequences import StoredBatch, batches_of, computing

BATCH_SIZE = 64


@dataclass(frozen=True)
class Dictionary:
    """Words and their vectors; `token_ids` where they are the tokens of the vocabulary."""

    words: list[str]
    vectors: Float[np.ndarray, "word d_model"]
    token_ids: np.ndarray | None


def unembedding(loaded: LoadedModel) -> Dictionary:
    """Every token with its row of the unembedding; ConfigError where there is no such matrix."""
    head = loaded.model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or weight.ndim != 2 or weight.shape[1] != loaded.d_model:
        raise ConfigError(
            f"{type(loaded.model).__name__} has no matrix with one row per token over its final states. Give words "
            "instead: --lexicon FILE."
        )
    vectors = weight.detach().float().cpu().numpy()
    # A vocabulary may be padded with rows that stand for no token.
    n = min(len(vectors), len(loaded.tokenizer))
    ids = np.arange(n, dtype=np.int32)
    return Dictionary(TokenText(loaded.tokenizer).display(ids), vectors[:n], ids)


def read_lexicon(path: Path) -> list[str]:
    """One word (or phrase) per line; UsageError for an empty line or a word that comes twice."""
    if not path.is_file():
        raise NotFoundError(f"There is no lexicon {path}. It is a text file with one word per line.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}.") from error
    words: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        word = line.strip()
        if not word:
            raise UsageError(f"{path}, line {number} is empty: take it out, or write a word.")
        if word in words:
            raise UsageError(f"{path}, line {number}: {word!r} is there already (line {words[word]}).")
        words[word] = number
    if not words:
        raise UsageError(f"{path} holds no words: write one per line.")
    return list(words)


def lexicon(loaded: LoadedModel, path: Path) -> Dictionary:
    """Each word as the mean of its tokens' final states, read by itself behind what the tokenizer puts in front.

    UsageError for words that the tokenizer does not know.
    """
    words = read_lexicon(path)
    rows, spans = [], []
    for index, word in enumerate(words):
        encoded = loaded.tokenizer(word, return_special_tokens_mask=True, verbose=False)
        ids, special = encoded["input_ids"], np.array(encoded["special_tokens_mask"], bool)
        _check_known(loaded, path, index + 1, word, ids, special)
        rows.append(Row(index, index, 0, np.array(ids, np.int64)))
        spans.append(np.flatnonzero(~special))
    vectors = np.zeros((len(words), loaded.d_model), np.float32)
    reading = choose_reading(loaded)
    for group in batches_of(rows, reading, BATCH_SIZE):
        batch = StoredBatch(loaded, group, reading)
        with computing():
            final = batch.read().float()
        for row, one in enumerate(group):
            columns = torch.from_numpy(spans[one.sequence_id] + int(batch.pads[row])).to(final.device)
            vectors[one.sequence_id] = final[row, columns].mean(0).cpu().numpy()
    return Dictionary(words, vectors, None)


def _check_known(
    loaded: LoadedModel, path: Path, line: int, word: str, ids: list[int], special: np.ndarray
) -> None:  # fmt: skip
    own = [token for token, other in zip(ids, special, strict=True) if not other]
    unknown = loaded.tokenizer.unk_token_id
    # Byte-level tokenizers know everything; some name their end token as the unknown one.
    if not own or (unknown is not None and unknown in own):
        raise UsageError(
            f"{path}, line {line}: the tokenizer of {loaded.name} does not know {word!r}. Take it out of the lexicon."
        )
    if len(ids) > loaded.context_length:
        raise UsageError(f"{path}, line {line}: {len(ids):,} tokens; the model takes {loaded.context_length:,}.")
