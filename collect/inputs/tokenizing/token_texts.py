"""Texts of token ids from a model's tokenizer file, where this machine has it: no model and no network is touched."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...tinymath import WEIGHTS
from .text import added_text, word_id

_FILE = "tokenizer.json"


def token_texts(model: str, revision: str | None, ids: Sequence[int]) -> Mapping[int, str]:
    """The text of each id, as `token_steps.token` holds it; empty without the model's tokenizer.json."""
    file = _tokenizer_file(model, revision)
    if file is None or not file.is_file():
        return {}
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    special = frozenset(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False)

    letter = tokenizer.encode("a", add_special_tokens=False).ids
    word = word_id(decode, (*reversed(letter), *range(size)), special)
    return {i: added_text(decode, None if i in special else word, [i]) for i in ids if i < size}


def _tokenizer_file(model: str, revision: str | None) -> Path | None:
    """Of the bundled model, of a local folder, or in the cache of the hub's client."""
    if model == "tinymath":
        return WEIGHTS / _FILE
    if Path(model).is_dir():
        return Path(model) / _FILE
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, _FILE, revision=revision)
    except HFValidationError:  # a folder that is gone looks like an id that cannot be
        return None
    return Path(found) if isinstance(found, str) else None
