"""Corpora to be read, not answered: files and folders of texts, the bundled problems, datasets that are streamed.

A corpus is a sequence of documents that can be read again from any of them. Knows no tokenizer.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

from ....lake.errors import NotFoundError, UsageError, did_you_mean
from ....lake.values import Json
from ...tinymath import problems
from ...tinymath.problems import METHODS
from ..fields import Prompt
from ..hub_datasets import open_dataset
from ..prompt_files import FORMATS, PACKED, PromptBytes, rows_of

WIKIPEDIA = ("wikimedia/wikipedia", "20231101")
"""Dataset and dump of `wikipedia`; the language completes the subset's name."""
PEEK = 16
"""Streamed documents whose digest stands for the whole: enough to notice another dataset."""


@dataclass(frozen=True)
class Document:
    """One text; documents of one `item_id` are of the same split."""

    item_id: str
    text: str


class Corpus(Protocol):
    """Documents in an order of their own, to be read from any of them; also a source of prompts."""

    @property
    def dataset(self) -> str | None:
        """Name of the corpus."""
        ...

    @property
    def split(self) -> str | None:
        """Split of the corpus, if it is one."""
        ...

    def describe(self) -> Json:
        """What run.json needs to find the same documents again, and to notice if they changed."""
        ...

    def documents(self, start: int = 0) -> Iterator[Document]:
        """The documents, beginning with number `start`."""
        ...

    def __iter__(self) -> Iterator[Prompt]: ...


class _Prompts:
    """Documents as prompts, for whoever asks for them so."""

    def documents(self, start: int = 0) -> Iterator[Document]:
        """The documents, beginning with number `start`."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Prompt]:
        return (Prompt(document.text, document.item_id) for document in self.documents())


@dataclass(frozen=True)
class TinymathCorpus(_Prompts):
    """The bundled problems: question and solution, one document for each way of solving it."""

    split: str
    dataset: str = "tinymath"

    def describe(self) -> Json:
        return {"kind": "tinymath corpus", "split": self.split}

    def documents(self, start: int = 0) -> Iterator[Document]:
        texts = (
            Document(problem.item_id, f"Question: {problem.question}\nAnswer: {problem.solutions[method]}")
            for problem in problems(self.split)  # type: ignore[arg-type]
            for method in METHODS
        )
        return islice(texts, start, None)


@dataclass(frozen=True)
class FileCorpus(_Prompts):
    """A file, or a folder of files in the order of their names: a text is one document, other files hold rows."""

    root: Path
    files: tuple[Path, ...]
    text_field: str
    split: str | None = None

    @classmethod
    def open(cls, name: str, text_field: str) -> "FileCorpus":
        """NotFoundError if there is nothing of this name, or nothing to read in it."""
        root = Path(name)
        if root.is_file():
            if form_of(root) is None:
                raise UsageError(f"{name}: a corpus is read from {', '.join(FORMATS)} files (also .gz, .zst).")
            return cls(root, (root,), text_field)
        if not root.is_dir():
            raise NotFoundError(
                f"There is no corpus {name!r}. Give a file, a folder, tinymath[:train|test], wikipedia[:LANG] or "
                "hf:NAME[:SUBSET][:SPLIT]."
            )
        files = tuple(sorted(file for file in root.rglob("*") if file.is_file() and form_of(file) is not None))
        if not files:
            raise NotFoundError(f"The folder {name} holds no {', '.join(FORMATS)} files.")
        return cls(root, files, text_field)

    @property
    def dataset(self) -> str:
        """The file's or folder's name."""
        return self.root.name

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                digest.update(f"{self._name(file)}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
        return digest.hexdigest()

    def describe(self) -> Json:
        about = {"kind": "corpus files", "path": str(self.root), "n_files": len(self.files), "sha256": self._sha256}
        return about | {"text_field": self.text_field}

    def documents(self, start: int = 0) -> Iterator[Document]:
        return islice((document for file in self.files for document in self._of(file)), start, None)

    def _name(self, file: Path) -> str:
        return file.name if file == self.root else file.relative_to(self.root).as_posix()

    def _of(self, file: Path) -> Iterator[Document]:
        form = form_of(file) or "text"
        rows = rows_of(PromptBytes(str(file), file), form, split_lines=False)
        for i, (where, row) in enumerate(rows):
            own = row.get("id") if isinstance(row, Mapping) else None
            text = row_text(row, self.text_field, where)
            named = self._name(file) if form == "text" else f"{self._name(file)}#{i}"
            alone = str(i) if file == self.root and form != "text" else named
            yield Document(alone if own is None or own == "" else str(own), text)


@dataclass(frozen=True)
class HubCorpus(_Prompts):
    """A dataset of the Hugging Face hub, or a folder that `datasets` can load, read as a stream."""

    dataset: str
    subset: str | None
    split: str
    text_field: str

    def describe(self) -> Json:
        about = {"kind": "corpus stream", "dataset": self.dataset, "subset": self.subset, "split": self.split}
        return about | {"text_field": self.text_field, "first_documents_sha256": self._first}

    @cached_property
    def _first(self) -> str:
        texts = "\0".join(document.text for document in islice(self.documents(), PEEK))
        return hashlib.sha256(texts.encode()).hexdigest()

    @property
    def _name(self) -> str:
        return ":".join(filter(None, (self.dataset, self.subset, self.split)))

    def documents(self, start: int = 0) -> Iterator[Document]:
        advice = "Write hf:NAME, hf:NAME:SPLIT or hf:NAME:SUBSET:SPLIT."
        rows = open_dataset(self.dataset, self.subset, self.split, advice=advice, streaming=True)
        for i, row in enumerate(rows.skip(start) if start else rows, start):
            own = row.get("id")
            text = row_text(row, self.text_field, f"{self._name}, row {i}")
            yield Document(str(i) if own is None else str(own), text)


def row_text(row: object, name: str, where: str) -> str:
    """The text of a row; UsageError where it has none."""
    if isinstance(row, str):
        return row
    if not isinstance(row, Mapping) or name not in row:
        fields = list(map(str, row)) if isinstance(row, Mapping) else []
        raise UsageError(f"{where} has no field {name!r}.{did_you_mean(name, fields)} Name the text with --text-field.")
    if row[name] is None:
        return ""
    if not isinstance(row[name], str):
        raise UsageError(f"{where}: {name!r} must be a text, not {type(row[name]).__name__}.")
    return row[name]


def form_of(file: Path) -> str | None:
    """The format by the file's ending, behind which it may be packed; None for a file of another kind."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes = suffixes[:-1]
    return FORMATS.get(suffixes[-1]) if suffixes else None


def open_corpus(name: str, text_field: str) -> Corpus:
    """The corpus that --corpus names."""
    kind, *parts = name.split(":")
    if kind == "tinymath":
        split = parts[0] if parts else "train"
        if len(parts) > 1 or split not in ("train", "test"):
            raise NotFoundError(f"tinymath has no split {':'.join(parts)!r}.{did_you_mean(split, ('train', 'test'))}")
        return TinymathCorpus(split)
    if kind == "wikipedia":
        language = parts[0] if parts else "en"
        if len(parts) > 1 or not re.fullmatch(r"[a-z][a-z-]{0,15}", language):
            raise UsageError(f"--corpus {name!r}: write wikipedia or wikipedia:LANG, such as wikipedia:de.")
        return HubCorpus(WIKIPEDIA[0], f"{WIKIPEDIA[1]}.{language}", "train", text_field)
    if kind == "hf":
        if not 1 <= len(parts) <= 3 or not all(parts):
            raise UsageError(f"--corpus {name!r}: write hf:NAME, hf:NAME:SPLIT or hf:NAME:SUBSET:SPLIT.")
        subset = parts[1] if len(parts) == 3 else None
        return HubCorpus(parts[0], subset, parts[-1] if len(parts) > 1 else "train", text_field)
    return FileCorpus.open(name, text_field)
