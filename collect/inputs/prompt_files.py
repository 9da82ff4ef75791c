"""Files of prompts, and prompts from standard input: found, unpacked, decoded; their records in order."""

import codecs
import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from ...lake.errors import DamageError, NotFoundError, UsageError, did_you_mean
from ...lake.values import Json
from . import prompt_formats
from .fields import Prompt, prompt_from_row

FORMATS = {
    ".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet",
}  # fmt: skip
PACKED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
"""Endings of packed files, and the bytes that these begin with."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
STDIN_BYTES = 16 * 2**20
"""Most bytes taken from standard input: they are kept in run.json, so that the run can be resumed."""


@dataclass(frozen=True)
class PromptBytes:
    """The bytes of a file or of standard input; they can be opened again and again."""

    name: str
    path: Path | None = None
    content: bytes = field(default=b"", repr=False)

    def open(self) -> BinaryIO:
        """The unpacked bytes from their beginning."""
        raw = io.BytesIO(self.content) if self.path is None else self.path.open("rb")
        with raw:
            start = raw.read(4)
        if start.startswith(PACKED[".gz"]):
            return gzip.open(self.path or io.BytesIO(self.content), "rb")  # type: ignore[return-value]
        if start == PACKED[".zst"]:
            import pyarrow as pa

            packed = pa.BufferReader(self.content) if self.path is None else pa.OSFile(str(self.path))
            return pa.CompressedInputStream(packed, "zstd")  # type: ignore[return-value]
        return io.BytesIO(self.content) if self.path is None else self.path.open("rb")

    def text(self, *, newline: str | None = None) -> TextIO:
        """The decoded text: UTF-8, or what a byte-order mark says."""
        with self.open() as stream:
            start = stream.read(4)
        encoding = next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")
        return io.TextIOWrapper(self.open(), encoding=encoding, newline=newline)  # type: ignore[type-var]

    def not_text(self, error: UnicodeDecodeError) -> UsageError:
        """The error for bytes that are no text in their encoding, with the line where that is known."""
        place = ""
        if error.encoding.startswith("utf-8"):
            with self.open() as stream:
                for number, line in enumerate(stream, 1):
                    try:
                        line.decode()
                    except UnicodeDecodeError as first:
                        place = f" (byte 0x{line[first.start]:02x} in line {number})"
                        break
        return UsageError(
            f"{self.name} is not {error.encoding.upper().replace('-SIG', '')}{place}. Save it as UTF-8, or as UTF-16 "
            "with a byte-order mark; for files of Windows: iconv -f WINDOWS-1252 -t UTF-8 FILE."
        )


@dataclass(frozen=True)
class PromptFile:
    """Prompts of a file in one of the formats; `split_lines` off makes a text file one prompt."""

    source: PromptBytes
    form: str
    sha256: str
    split_lines: bool = True
    dataset: str | None = None
    split: str | None = None

    @classmethod
    def open(cls, path: str, *, form: str = "auto", split_lines: bool = True) -> "PromptFile":
        """NotFoundError if there is no such file, UsageError for a suffix that is not known."""
        file = Path(path)
        if file.is_dir():
            raise UsageError(f"--prompts {path} is a folder. Give one file; to read texts of a folder: --corpus.")
        if not file.is_file():
            raise NotFoundError(f"There is no prompt file {path}. Give text, JSON, CSV or Parquet, or - for stdin.")
        form = _format_of(file) if form == "auto" else form
        with file.open("rb") as stream:
            packing = PACKED.get(file.suffix.lower())
            if packing is not None and not stream.read(4).startswith(packing):
                raise UsageError(f"{path} is not packed, though its name ends in {file.suffix}.")
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        _check_splitting(path, form, split_lines)
        return cls(PromptBytes(str(file), file), form, digest, split_lines, dataset=file.name)

    def describe(self) -> Json:
        return {"kind": "file", "path": self.source.name, "sha256": self.sha256}

    def __iter__(self) -> Iterator[Prompt]:
        return prompts_of(self.source, self.form, split_lines=self.split_lines)


@dataclass(frozen=True)
class StdinPrompts:
    """Prompts that were piped in; kept whole, so that they can be read twice and a run be resumed."""

    content: bytes = field(repr=False)
    form: str
    split_lines: bool = True
    dataset: str | None = "stdin"
    split: str | None = None

    @classmethod
    def read(cls, *, form: str = "auto", split_lines: bool = True) -> "StdinPrompts":
        """Read standard input to its end; UsageError if it is a terminal or too much."""
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("--prompts - reads standard input, and nothing is piped into it. Give a file or a pipe.")
        content = sys.stdin.buffer.read(STDIN_BYTES + 1)
        if len(content) > STDIN_BYTES:
            raise UsageError(f"--prompts - takes at most {STDIN_BYTES >> 20} MiB. Save longer input to a file.")
        form = _format_of_content(PromptBytes("stdin", content=content)) if form == "auto" else form
        _check_splitting("stdin", form, split_lines)
        return cls(content, form, split_lines)

    @classmethod
    def recorded(cls, about: Json, *, split_lines: bool) -> "StdinPrompts":
        """What run.json kept of an earlier run's standard input."""
        return cls(about["content"].encode(about["encoding"]), about["format"], split_lines)

    def describe(self) -> Json:
        encoding = "utf-8"
        try:
            content = self.content.decode(encoding)
        except UnicodeDecodeError:  # packed, or in another encoding: one character per byte
            encoding = "latin-1"
            content = self.content.decode(encoding)
        return {"kind": "stdin", "format": self.form, "encoding": encoding, "content": content}

    def __iter__(self) -> Iterator[Prompt]:
        return prompts_of(PromptBytes("stdin", content=self.content), self.form, split_lines=self.split_lines)


def prompts_of(source: PromptBytes, form: str, *, split_lines: bool) -> Iterator[Prompt]:
    """The prompts of a file, one per record."""
    for i, (where, row) in enumerate(rows_of(source, form, split_lines=split_lines, prompts=True)):
        yield prompt_from_row(row, i, where)


def rows_of(
    source: PromptBytes, form: str, *, split_lines: bool = True, prompts: bool = False
) -> Iterator[tuple[str, object]]:
    """The records of a file, each with its place; what cannot be read is named. `prompts`: a header must have one."""
    try:
        yield from _rows(source, form, split_lines, prompts)
    except UnicodeDecodeError as error:
        raise source.not_text(error) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DamageError(f"{source.name} cannot be read: {error}.") from error


def _rows(source: PromptBytes, form: str, split_lines: bool, prompts: bool) -> Iterator[tuple[str, object]]:
    if form == "parquet":
        return prompt_formats.parquet_rows(source)
    if form in ("csv", "tsv"):
        return prompt_formats.csv_rows(source, tabs=form == "tsv", prompts=prompts)
    if form == "jsonl":
        return prompt_formats.json_lines(source)
    if form == "json":
        return prompt_formats.json_rows(source)
    return prompt_formats.text_lines(source) if split_lines else prompt_formats.whole_text(source)


def _format_of(file: Path) -> str:
    """The format by the file's ending, behind which it may be packed."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    packed = bool(suffixes) and suffixes[-1] in PACKED
    inner = suffixes[-2:-1] if packed else suffixes[-1:]
    form = FORMATS.get(inner[0]) if inner else None
    if form is None or (packed and form == "parquet"):
        given = "".join(suffixes[-2:] if packed else suffixes[-1:]) or "a name without an ending"
        raise UsageError(
            f"{file}: prompts are read from {', '.join(FORMATS)} files (all but Parquet also with .gz or .zst), "
            f"not {given}. Say what it holds with --prompts-format."
        )
    return form


def _format_of_content(source: PromptBytes) -> str:
    """What was piped in: Parquet by its first bytes, JSON lines by a first line that is an object, else text."""
    with source.open() as stream:
        if stream.read(4) == b"PAR1":
            return "parquet"
    try:
        return "jsonl" if prompt_formats.begins_with_object(source) else "text"
    except UnicodeDecodeError as error:
        raise source.not_text(error) from error


def _check_splitting(name: str, form: str, split_lines: bool) -> None:
    if form not in (known := (*dict.fromkeys(FORMATS.values()),)):
        raise UsageError(f"There is no --prompts-format {form!r}.{did_you_mean(form, known)}")
    if not split_lines and form != "text":
        raise UsageError(f"--split-lines no makes a text file one prompt; {name} is {form}.")
