"""Texts of token ids from a model's tokenizer file, where this machine has it: no model and no network is touched."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..tinymath import WEIGHTS

_FILE = "tokenizer.json"


def token_texts(model: str, revision: str | None, ids: Sequence[int]) -> Mapping[int, str]:
    """The token of each id decoded alone, as `token_steps.token` holds it; empty without the model's tokenizer.json."""
    file = _tokenizer_file(model, revision)
    if file is None or not file.is_file():
        return {}
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    return {i: tokenizer.decode([i], skip_special_tokens=False) for i in ids if i < size}


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
