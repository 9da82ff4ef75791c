"""SHA-256 digests of what a run's numbers come from: weights, settings, tokenizer, chat template."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def folder_digest(folder: Path) -> str | None:
    """SHA-256 over the names and contents of a folder's safetensors files; None if it has none."""
    return _content_digest(sorted(folder.glob("*.safetensors")))


def fingerprints(model: Any, tokenizer: Any, revision: str | None) -> dict[str, str | None]:
    """SHA-256 of the files that a model's settings and its tokenizer were loaded from, and of its chat template.

    Contents of files and not the state of objects: a call changes the padding of a tokenizer or the attention of a
    configuration. Without its files (None), only the tokenizer has a digest: of what it is, as it was loaded.
    """
    source = str(model.config.name_or_path)
    template = tokenizer.chat_template
    if template is not None and not isinstance(template, str):
        template = json.dumps(template, sort_keys=True)
    return {
        "config_sha256": _content_digest(_files(source, revision, ("config.json",))),
        "generation_config_sha256": _content_digest(_files(source, revision, ("generation_config.json",))),
        "tokenizer_sha256": tokenizer_digest(tokenizer, revision),
        "chat_template_sha256": text_digest(template) if template else None,
    }


def tokenizer_digest(tokenizer: Any, revision: str | None = None) -> str:
    """SHA-256 over the names and contents of a tokenizer's files, or of the tokenizer itself if it has none."""
    source = str(tokenizer.name_or_path)
    whole = _files(source, revision, ("tokenizer.json",))
    vocabulary = whole or _files(source, revision, sorted(set(tokenizer.vocab_files_names.values())))
    if vocabulary:
        return _content_digest(vocabulary + _files(source, revision, _TOKENIZER_SETTINGS)) or ""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        return text_digest(json.dumps({**content, "padding": None, "truncation": None}, sort_keys=True))
    return text_digest("\n".join(f"{token}\t{i}" for token, i in sorted(tokenizer.get_vocab().items())))


def _files(source: str, revision: str | None, names: Iterable[str]) -> list[Path]:
    """Those of the named files that a folder has, or the hub's cache for this revision."""
    if not source:
        return []
    if Path(source).is_dir():
        return [Path(source) / name for name in names if (Path(source) / name).is_file()]
    cached = (try_to_load_from_cache(source, name, revision=revision) for name in names)
    return [Path(file) for file in cached if isinstance(file, str)]


def _content_digest(files: list[Path]) -> str | None:
    """SHA-256 over names and contents; None without files."""
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
