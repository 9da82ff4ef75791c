"""Completions that are given with their prompts: the continuations of a file, to be read and gone on from."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...lake.errors import NotFoundError, UsageError, did_you_mean
from ...lake.values import Json
from .beginnings import Beginning
from .fields import Prompt
from .prompt_files import PromptBytes
from .prompt_formats import json_lines
from .source import PromptSource, SourceOverAnother

ORIGINS = ("forced", "oracle")


@dataclass(frozen=True)
class GivenCompletions(SourceOverAnother):
    """Another source's prompts, each once per completion that a JSONL file gives for its id; others are left out."""

    path: str
    sha256: str
    by_item: dict[str, tuple[Beginning, ...]]

    @classmethod
    def open(cls, source: PromptSource, path: str) -> "GivenCompletions":
        """NotFoundError if there is no such file, UsageError for a line that is not `id` and `given`."""
        file = Path(path)
        if file.exists() and not file.is_file():
            raise UsageError(f"{path} is no ordinary file, and completions are read twice. Save them to a file.")
        if not file.is_file():
            raise NotFoundError(f"There is no file {path} of given completions (JSONL with `id` and `given`).")
        found: dict[str, list[Beginning]] = {}
        for where, row in json_lines(PromptBytes(path, file)):
            item_id, beginning = _read(where, row)
            found.setdefault(item_id, []).append(beginning)
        if not found:
            raise UsageError(f"{path} gives no completions.")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return cls(source, path, digest, {item: tuple(given) for item, given in found.items()})

    def describe(self) -> Json:
        return {**self.source.describe(), "given": {"path": self.path, "sha256": self.sha256}}

    def __iter__(self) -> Iterator[Prompt]:
        known: list[str] = []
        for prompt in self.source:
            known.append(prompt.item_id)
            for beginning in self.by_item.get(prompt.item_id, ()):
                yield replace(prompt, beginning=beginning)
        unknown = next((item for item in self.by_item if item not in set(known)), None)
        if unknown is not None:
            raise UsageError(f"{self.path}: there is no prompt with id {unknown!r}.{did_you_mean(unknown, known)}")


def _read(where: str, row: object) -> tuple[str, Beginning]:
    if not isinstance(row, dict) or "id" not in row or "given" not in row:
        raise UsageError(f"{where}: expected an object with `id` and `given`.")
    given, origin = row["given"], row.get("origin", "forced")
    if origin not in ORIGINS:
        raise UsageError(f"{where}: `origin` is one of {', '.join(ORIGINS)}, not {origin!r}.")
    if isinstance(given, str) and given:
        return str(row["id"]), Beginning(text=given, origin=origin)
    ids = given if isinstance(given, list) else []
    if not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise UsageError(f"{where}: `given` must be a text or a list of token ids, and not empty.")
    return str(row["id"]), Beginning(ids=tuple(ids), origin=origin)
