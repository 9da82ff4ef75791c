"""Commit records: the only thing that makes rows visible.

A record is written in staging, synced, and published under a name that must not exist yet. Each one carries the digest
of the writer's record before it (the first: of run.json), so an edited or missing record is found.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .disk import Disk
from .errors import DamageError, LockedError
from .layout import RECORD, Layout, check_data_path

_HEAD, _MIDDLE, _TAIL = b'{"sha256":"', b'","body":', b"}\n"
_BODY = len(_HEAD) + 64 + len(_MIDDLE)


@dataclass(frozen=True)
class FileEntry:
    """One committed Parquet file, as its record describes it."""

    table: str
    path: str
    size: int
    sha256: str
    rows: int
    schema_version: int
    partition: dict[str, int | str] = field(default_factory=dict)
    key_range: dict[str, list[int | str]] = field(default_factory=dict)

    def may_hold(self, only: Mapping[str, int | str]) -> bool:
        """Whether rows with these values of key columns can be in the file, by its folder and its key ranges."""
        for column, value in only.items():
            low, high = self.key_range.get(column, (value, value))
            if self.partition.get(column, value) != value or not low <= value <= high:  # type: ignore[operator]
                return False
        return True


@dataclass(frozen=True)
class Record:
    """One commit: a segment of rows, the completion of a writer's work, or rows of an analysis (see `derived`)."""

    run_id: str
    writer: str
    seq: int
    op: Literal["segment", "finish", "derive"]
    previous: str
    time: str
    tool_version: str
    segment: int | None = None
    items: list[int] | None = None
    files: list[FileEntry] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    status: str | None = None
    error: str | None = None
    heads: dict[str, list[int | str]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    analysis: dict[str, Any] = field(default_factory=dict)
    replaces: list[str] = field(default_factory=list)
    digest: str = ""

    @property
    def name(self) -> str:
        """File name of the record."""
        return f"{self.writer}-{self.seq:06d}.json"


def now() -> str:
    """The time in UTC as ISO text with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sealed(body: Mapping[str, Any]) -> tuple[bytes, str]:
    """The bytes of a record file and their digest: JSON that holds the SHA-256 of its own body."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    digest = hashlib.sha256(text).hexdigest()
    return _HEAD + digest.encode() + _MIDDLE + text + _TAIL, digest


def unsealed(data: bytes, what: str) -> tuple[dict[str, Any], str]:
    """The body and digest of a record file; DamageError if a byte is not what was written."""
    body, digest = data[_BODY : -len(_TAIL)], data[len(_HEAD) : len(_HEAD) + 64]
    framed = data.startswith(_HEAD) and data[len(_HEAD) + 64 : _BODY] == _MIDDLE and data.endswith(_TAIL)
    if not framed or hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamageError(f"{what} is torn or was changed after it was written. Run `lake verify` to see what is hit.")
    return json.loads(body), digest.decode()


def encode(record: Record) -> tuple[bytes, str]:
    """The bytes of a commit record and their digest."""
    body = asdict(record)
    del body["digest"]
    return sealed({key: value for key, value in body.items() if value not in (None, [], {}) or key == "files"})


def decode(data: bytes, name: str, run_id: str) -> Record:
    """The record in `data`, checked against the place it was found in."""
    what = f"The commit record {name} of run {run_id}"
    body, digest = unsealed(data, what)
    files = [FileEntry(**entry) for entry in body.pop("files")]
    known = {key: value for key, value in body.items() if key in Record.__dataclass_fields__}
    record = Record(files=files, digest=digest, **known)
    if record.name != name or record.run_id != run_id:
        raise DamageError(f"{what} was written as {record.name} of run {record.run_id}: somebody moved it.")
    for entry in files:
        check_data_path(entry.path, what)
    return record


def publish(disk: Disk, data: bytes, draft: Path, target: Path) -> None:
    """Write and sync `draft`, then give it its name create-only and sync the folder: after this it is acknowledged."""
    disk.unlink(draft)
    file = disk.create(draft)
    try:
        file.write(data)
        file.sync()
    finally:
        file.close()
    try:
        disk.link(draft, target)
    except FileExistsError:
        disk.unlink(draft)
        raise LockedError(
            f"{target.name} exists already in {target.parent}: another process wrote it at the same time."
        ) from None
    disk.sync_folder(target.parent)
    disk.unlink(draft)


def read_records(disk: Disk, layout: Layout, run_id: str, anchor: str) -> dict[str, list[Record]]:
    """All records of a run by writer, in order; DamageError if one is torn, edited or missing in the middle."""
    folder = layout.commits(run_id)
    cached: dict[str, Record] = {}
    for attempt in range(3):  # a listing taken while a writer commits may show a later name and miss an earlier one
        chains: dict[str, list[Record]] = {}
        for name in disk.names(folder):
            if not (match := RECORD.fullmatch(name)):
                continue
            if name not in cached:
                cached[name] = decode(read(disk, folder / name, run_id), name, run_id)
            chains.setdefault(match["writer"], []).append(cached[name])
        problems = [text for chain in chains.values() for text in chain_problems(chain, anchor)]
        if not problems:
            return chains
        if attempt == 2:
            raise DamageError(f"Run {run_id}: {problems[0]} Run `lake verify` to see what is hit.")
    raise AssertionError("unreachable")


def read(disk: Disk, path: Path, run_id: str) -> bytes:
    """The bytes of a record file; DamageError if it cannot be read."""
    try:
        return disk.read(path)
    except FileNotFoundError:
        raise DamageError(f"{path.name} of run {run_id} is missing ({path}).") from None
    except OSError as error:
        raise DamageError(
            f"{path.name} of run {run_id} cannot be read ({path}): {os.strerror(error.errno or 0)}."
        ) from error


def chain_problems(chain: list[Record], anchor: str) -> list[str]:
    """What is wrong with one writer's records, sorted by number: gaps, and digests that do not follow."""
    problems, previous, expected = [], anchor, 0
    for record in sorted(chain, key=lambda r: r.seq):
        if record.seq != expected:
            problems.append(f"the commit record {record.writer}-{expected:06d}.json is missing.")
        elif record.previous != previous:
            before = "run.json" if record.seq == 0 else f"{record.writer}-{record.seq - 1:06d}.json"
            problems.append(f"{record.name} does not follow {before} as it is now: one of them was changed.")
        previous, expected = record.digest, record.seq + 1
    return problems
