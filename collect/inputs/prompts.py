"""Where prompts come from: arguments, files, the bundled problems, Hugging Face datasets. Knows no tokenizer.

A source can be read again from its beginning and gives the same prompts in the same order, so that a run is planned
in one pass and collected in another without holding the prompts in memory.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from ...lake.errors import ConfigError, DamageError, NotFoundError, UsageError, did_you_mean
from ..config import CollectConfig
from ..tinymath import problems

SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
TEXT_FIELDS = ("prompt", "question", "text", "problem", "instruction")


@dataclass(frozen=True)
class Prompt:
    """One item as the user gave it; `text` is the prompt itself or, for messages, their canonical JSON."""

    text: str
    item_id: str
    messages: tuple[dict[str, Any], ...] | None = None
    answer: str | None = None
    metadata: dict[str, Any] | None = None

    @property
    def prompt_id(self) -> str:
        """First 16 hex digits of SHA-256 over the prompt as given; equal across runs and models."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


class PromptSource(Protocol):
    """A sequence of prompts that can be read more than once."""

    @property
    def dataset(self) -> str | None:
        """Name of the dataset or file."""
        ...

    @property
    def split(self) -> str | None:
        """Split of the dataset."""
        ...

    def describe(self) -> dict[str, Any]:
        """What run.json needs to find the same prompts again, and to notice if they changed."""
        ...

    def __iter__(self) -> Iterator[Prompt]: ...


@dataclass(frozen=True)
class GivenPrompts:
    """Texts from the command line or from Python."""

    texts: tuple[str, ...]
    dataset: str | None = None
    split: str | None = None

    def describe(self) -> dict[str, Any]:
        return {"kind": "given", "texts": list(self.texts)}

    def __iter__(self) -> Iterator[Prompt]:
        return (Prompt(text, str(i)) for i, text in enumerate(self.texts))


@dataclass(frozen=True)
class PromptFile:
    """A text file (one prompt per line), JSONL, CSV or Parquet with `prompt` or `messages`."""

    path: Path
    sha256: str
    dataset: str | None = None
    split: str | None = None

    @classmethod
    def open(cls, path: str) -> "PromptFile":
        """NotFoundError if there is no such file, UsageError for a suffix that is not known."""
        file = Path(path)
        if not file.is_file():
            raise NotFoundError(f"There is no prompt file {path}. Give text, JSONL, CSV or Parquet.")
        if file.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{path}: prompts are read from {', '.join(SUFFIXES)} files, not {file.suffix or 'this'}.")
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(file, digest, dataset=file.name)

    def describe(self) -> dict[str, Any]:
        return {"kind": "file", "path": str(self.path), "sha256": self.sha256}

    def __iter__(self) -> Iterator[Prompt]:
        rows = {".txt": _text_rows, ".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
        for i, row in enumerate(rows[self.path.suffix.lower()](self.path)):
            yield prompt_from_row(row, i, f"{self.path}, item {i}")


def _text_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                yield {"prompt": line.rstrip("\n")}


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{path}, line {number} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise UsageError(f"{path}, line {number}: expected an object with `prompt` or `messages`.")
            yield row


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise DamageError(f"{path} cannot be read as Parquet: {error}") from error


def prompt_from_row(row: dict[str, Any], index: int, where: str) -> Prompt:
    """Read one record: `prompt` (or `messages`), optional `id`, `answer`, `metadata`."""
    messages = row.get("messages")
    metadata = row.get("metadata")
    if isinstance(metadata, str) and metadata:
        try:
            metadata = json.loads(metadata)
        except ValueError:
            metadata = {"metadata": metadata}
    answer = row.get("answer")
    common = {
        "item_id": str(row["id"]) if row.get("id") not in (None, "") else str(index),
        "answer": None if answer in (None, "") else str(answer),
        "metadata": metadata or None,
    }
    if messages:
        canonical = json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return Prompt(canonical, messages=tuple(messages), **common)
    name = next((field for field in TEXT_FIELDS if isinstance(row.get(field), str)), None)
    if name is None:
        raise UsageError(
            f"{where} has no `prompt` (or `messages`); its fields are {', '.join(map(str, row)) or 'none'}."
        )
    if not row[name].strip():
        raise UsageError(f"{where}: the prompt is empty. Leave the item out or give it a text.")
    return Prompt(row[name], **common)


@dataclass(frozen=True)
class TinymathProblems:
    """The bundled arithmetic word problems with answers and oracle solutions (in `metadata`)."""

    split: str
    dataset: str = "tinymath"

    def describe(self) -> dict[str, Any]:
        return {"kind": "tinymath", "split": self.split}

    def __iter__(self) -> Iterator[Prompt]:
        for problem in problems(self.split):  # type: ignore[arg-type]
            metadata = {"level": problem.level, "oracle": problem.solutions}
            yield Prompt(problem.question, problem.item_id, answer=problem.answer, metadata=metadata)


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the Hugging Face hub (or a local folder that `datasets` can load)."""

    dataset: str
    split: str

    def describe(self) -> dict[str, Any]:
        return {"kind": "hub", "dataset": self.dataset, "split": self.split}

    def __iter__(self) -> Iterator[Prompt]:
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ConfigError("Hugging Face datasets need an extra package: pip install 'tracelake[hub]'.") from error
        try:
            rows = load_dataset(self.dataset, split=self.split)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise NotFoundError(f"Dataset {self.dataset}:{self.split} could not be loaded: {reason}") from error
        for i, row in enumerate(rows):
            yield prompt_from_row(dict(row), i, f"{self.dataset}:{self.split}, item {i}")


@dataclass(frozen=True)
class FirstPrompts:
    """Only the first prompts of another source."""

    source: PromptSource
    limit: int

    @property
    def dataset(self) -> str | None:
        return self.source.dataset

    @property
    def split(self) -> str | None:
        return self.source.split

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "limit": self.limit}

    def __iter__(self) -> Iterator[Prompt]:
        return islice(iter(self.source), self.limit)


def open_source(config: CollectConfig) -> PromptSource:
    """The one source that the configuration names."""
    given = [name for name in ("prompt", "prompts", "dataset") if getattr(config, name)]
    if len(given) != 1:
        what = "none was given" if not given else " and ".join(f"--{name}" for name in given) + " were given"
        raise UsageError(f"Give one source of prompts: --prompt TEXT, --prompts FILE or --dataset NAME ({what}).")
    if config.prompt:
        if any(not text.strip() for text in config.prompt):
            raise UsageError("--prompt: a prompt is empty. Give it a text or leave it out.")
        source: PromptSource = GivenPrompts(config.prompt)
    elif config.prompts:
        source = PromptFile.open(config.prompts)
    else:
        source = _dataset(str(config.dataset))
    return source if config.limit is None else FirstPrompts(source, config.limit)


def _dataset(name: str) -> PromptSource:
    dataset, _, split = name.partition(":")
    if dataset != "tinymath":
        return HubDataset(dataset, split or "train")
    if split not in ("", "train", "test"):
        raise NotFoundError(f"tinymath has no split {split!r}.{did_you_mean(split, ('train', 'test'))}")
    return TinymathProblems(split or "test")
