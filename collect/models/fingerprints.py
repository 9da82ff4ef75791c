"""SHA-256 digests of what a run's numbers come from: weights, tokenizer, chat template."""

import hashlib
from pathlib import Path
from typing import Any


def folder_digest(folder: Path) -> str | None:
    """SHA-256 over the names and contents of a folder's safetensors files; None if it has none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of the serialised tokenizer, or of its vocabulary where it has no fast form."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return text_digest(backend.to_str())
    return text_digest("\n".join(f"{token}\t{i}" for token, i in sorted(tokenizer.get_vocab().items())))


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
