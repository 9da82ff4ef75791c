"""Commit records: the only thing that makes rows and blobs visible.

A record is written in staging, synced, and published under a name that must not exist yet. Each one carries the digest
of the writer's record before it (the first: of run.json), so an edited or missing record is found.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

from .. import layout
from ..errors import DamageError, LockedError, NewerFormatError, UsageError
from ..json_values import Time, check_types, oddity, parse
from ..layout import BLOB_PATH, BLOBS, DATA_PATH, RECORD
from ..storage.store import Store
from ..values import Json, JsonView
from .checksum import Checksum, named_checksum

_HEAD, _MIDDLE, _TAIL = b'{"sha256":"', b'","body":', b"}\n"
_BODY = len(_HEAD) + 64 + len(_MIDDLE)
OPERATIONS = ("segment", "finish", "derive")


@dataclass(frozen=True)
class FileEntry:
    """One committed Parquet file, as its record describes it."""

    table: str
    path: str
    size: int
    checksum: Checksum
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
class BlobEntry:
    """One committed file that is no table: safetensors, .npy or JSON. `name` is unique within its commit."""

    name: str
    path: str
    size: int
    checksum: Checksum


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
    blobs: list[BlobEntry] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    status: str | None = None
    error: str | None = None
    heads: dict[str, list[int | str]] = field(default_factory=dict)
    extra: Json = field(default_factory=dict)
    analysis: Json = field(default_factory=dict)
    replaces: list[str] = field(default_factory=list)
    digest: str = ""

    @property
    def name(self) -> str:
        """File name of the record."""
        return layout.record_name(self.writer, self.seq)

    @property
    def paths(self) -> list[tuple[str, int]]:
        """Name and size of everything the record names."""
        return [(entry.path, entry.size) for entry in (*self.files, *self.blobs)]


_KINDS: Json = {
    "run_id": str, "writer": str, "seq": int, "op": str, "previous": str, "time": Time, "tool_version": str,
    "segment": int | None, "items": list[int] | None, "files": list, "blobs": list,
    "columns": dict[str, list[str]], "counters": dict[str, int], "status": Literal["complete", "failed"] | None,
    "error": str | None, "heads": dict[str, list[int | str]], "extra": Json, "analysis": Json,
    "replaces": list[str],
}  # fmt: skip
_ANALYSIS_KINDS: Json = {
    "analysis_id": str, "name": str, "question": str, "parameters": Json, "snapshot": str,
}  # fmt: skip
_REQUIRED = ("run_id", "writer", "seq", "op", "previous", "time", "tool_version", "files")


def now() -> str:
    """The time in UTC as ISO text with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sealed(body: Mapping[str, object]) -> tuple[bytes, str]:
    """The bytes of a record file and their digest: JSON that holds the SHA-256 of its own body."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    digest = hashlib.sha256(text).hexdigest()
    return _HEAD + digest.encode() + _MIDDLE + text + _TAIL, digest


def unsealed(data: bytes, what: str) -> tuple[Json, str]:
    """The body and digest of a record file; DamageError if a byte is not what was written."""
    body, digest = data[_BODY : -len(_TAIL)], data[len(_HEAD) : len(_HEAD) + 64]
    framed = data.startswith(_HEAD) and data[len(_HEAD) + 64 : _BODY] == _MIDDLE and data.endswith(_TAIL)
    if not framed or hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamageError(f"{what} is torn or was changed after it was written. Run `lake verify` to see what is hit.")
    return parse(body, what), digest.decode()


def encode(record: Record) -> tuple[bytes, str]:
    """The bytes of a commit record and their digest."""
    body = asdict(record)
    del body["digest"]
    for entry in (*body["files"], *body["blobs"]):
        checksum = entry.pop("checksum")
        entry[checksum.algorithm] = checksum.digest
    return sealed({key: value for key, value in body.items() if value not in (None, [], {}) or key == "files"})


def decode(data: bytes, name: str, run_id: str) -> Record:
    """The record in `data`, checked against the place it was found in and the types that belong in it."""
    what = f"The commit record {name} of run {run_id}"
    body, digest = unsealed(data, what)
    if missing := [key for key in _REQUIRED if key not in body]:
        raise DamageError(f"{what} cannot be read: it has no {missing[0]}. Run `lake verify`.")
    check_types(body, _KINDS, what)
    if body["op"] not in OPERATIONS:
        raise NewerFormatError(f"{what} is of the kind {body['op']!r}, of a newer tracelake. Install a newer one.")
    if body.get("analysis"):
        if missing := [key for key in _ANALYSIS_KINDS if key not in body["analysis"]]:
            raise DamageError(f"{what} cannot be read: its analysis has no {missing[0]}. Run `lake verify`.")
        check_types(body["analysis"], _ANALYSIS_KINDS, f"{what} (its analysis)")
    _check_pairs(body, what)
    files = [_file_entry(entry, run_id, what) for entry in body.pop("files")]
    blobs = [_blob_entry(entry, run_id, what) for entry in body.pop("blobs", [])]
    known = {key: value for key, value in body.items() if key in Record.__dataclass_fields__}
    record = Record(files=files, blobs=blobs, digest=digest, **known)
    if record.name != name or record.run_id != run_id:
        raise DamageError(f"{what} was written as {record.name} of run {record.run_id}: somebody moved it.")
    return record


def _check_pairs(body: JsonView, what: str) -> None:
    """What types alone do not say: ranges have two ends, heads a number and a digest."""
    items = body.get("items")
    heads = body.get("heads", {}).values()
    segment = body.get("segment")
    if (
        (items is not None and not (len(items) == 2 and 0 <= items[0] <= items[1] < 2**62))
        or any(len(head) != 2 or type(head[0]) is not int or type(head[1]) is not str for head in heads)
        or (segment is not None and not 0 <= segment < 2**31)
        or (segment is None and body["op"] == "segment")
        or any(not 0 <= count < 2**62 for count in body.get("counters", {}).values())
        or not 0 <= body["seq"] < 2**62
    ):
        raise DamageError(f"{what} cannot be read: a range, a head or a count in it cannot be. Run `lake verify`.")
    if problem := oddity(body.get("extra")) or oddity(body.get("analysis")):
        raise DamageError(f"{what} {problem}. Run `lake verify`.")


def _file_entry(raw: Json, run_id: str, what: str) -> FileEntry:
    """A file as the record names it; DamageError unless its path is that of its table, run and partition."""
    try:
        entry = FileEntry(
            raw["table"], raw["path"], raw["size"], named_checksum(raw), raw["rows"], raw["schema_version"],
            raw.get("partition", {}), raw.get("key_range", {}),
        )  # fmt: skip
        texts, numbers = (entry.table, entry.path), (entry.size, entry.rows, entry.schema_version)
        fine = all(type(text) is str for text in texts)
        fine = fine and all(type(number) is int and 0 <= number < 2**62 for number in numbers)
        fine = fine and all(type(value) in (int, str) for value in entry.partition.values())
        fine = fine and all(
            len(ends) == 2 and type(ends[0]) is type(ends[1]) and type(ends[0]) in (int, str)
            for ends in entry.key_range.values()
        )
    except (KeyError, TypeError, AttributeError):
        entry, fine = None, False
    if entry is None or not fine:
        raise DamageError(f"{what} cannot be read: a file in it is not described as files are. Run `lake verify`.")
    if not DATA_PATH.fullmatch(entry.path):
        raise DamageError(f"{what} names the file {entry.path!r}, which is not a normal relative path under data/.")
    folders = "".join(f"{key}={value}/" for key, value in entry.partition.items())
    if entry.path.rpartition("/")[0] + "/" != f"data/{entry.table}/run={run_id}/{folders}":
        raise DamageError(f"{what} names the file {entry.path!r}, which is not in the folder of its table and run.")
    return entry


def _blob_entry(raw: Json, run_id: str, what: str) -> BlobEntry:
    try:
        entry = BlobEntry(raw["name"], raw["path"], raw["size"], named_checksum(raw))
        fine = type(entry.name) is type(entry.path) is str and type(entry.size) is int and 0 <= entry.size < 2**62
    except (KeyError, TypeError, AttributeError):
        entry, fine = None, False
    if entry is None or not fine:
        raise DamageError(f"{what} cannot be read: a blob in it is not described as blobs are. Run `lake verify`.")
    inside = entry.path.startswith(f"data/{BLOBS}/run={run_id}/") and entry.path.endswith(f"/{entry.name}")
    if not (BLOB_PATH.fullmatch(entry.path) and inside):
        raise DamageError(f"{what} names the blob {entry.path!r}, which is not a normal path among the run's blobs.")
    return entry


def publish(store: Store, data: bytes, name: str, *, draft: str) -> None:
    """Publish a file create-only; LockedError if another process was faster."""
    try:
        store.publish(data, name, draft=draft)
    except FileExistsError:
        folder, _, leaf = name.rpartition("/")
        raise LockedError(f"{leaf} exists already in {folder}: another process wrote it at the same time.") from None


def read_records(store: Store, run_id: str, anchor: str) -> dict[str, list[Record]]:
    """All records of a run by writer, in order; DamageError if one is torn, edited or missing in the middle."""
    folder = layout.commits(run_id)
    cached: dict[str, Record] = {}
    problems: list[str] = []
    for _ in range(3):  # a listing taken while a writer commits may show a later name and miss an earlier one
        chains: dict[str, list[Record]] = {}
        matches = [match for name in store.names(folder) if (match := RECORD.fullmatch(name))]
        new = [match[0] for match in matches if match[0] not in cached]
        for name, data in zip(new, _read_together(store, folder, new, run_id), strict=True):
            cached[name] = decode(data, name, run_id)
        for match in matches:
            chains.setdefault(match["writer"], []).append(cached[match[0]])
        chains = {writer: sorted(chain, key=lambda r: r.seq) for writer, chain in chains.items()}
        problems = [text for chain in chains.values() for text in chain_problems(chain, anchor)]
        if not problems:
            return chains
    raise DamageError(f"Run {run_id}: {problems[0]} Run `lake verify` to see what is hit.")


def _read_together(store: Store, folder: str, names: Sequence[str], run_id: str) -> list[bytes]:
    try:
        return store.read_all(folder, names)
    except OSError:
        return [read(store, f"{folder}/{name}", run_id) for name in names]  # one by one, to name the one that fails


def read(store: Store, name: str, run_id: str) -> bytes:
    """The bytes of a record file; DamageError if it cannot be read."""
    leaf, where = name.rpartition("/")[2], f"{store.path}/{name}"
    try:
        return store.read(name)
    except FileNotFoundError:
        raise DamageError(f"{leaf} of run {run_id} is missing ({where}).") from None
    except OSError as error:
        raise DamageError(
            f"{leaf} of run {run_id} cannot be read ({where}): {os.strerror(error.errno or 0)}."
        ) from error


def chain_problems(chain: Iterable[Record], anchor: str) -> list[str]:
    """What is wrong with one writer's records, sorted by number: gaps, and digests that do not follow."""
    problems, previous, expected = [], anchor, 0
    for record in sorted(chain, key=lambda r: r.seq):
        if record.seq != expected:
            problems.append(f"the commit record {layout.record_name(record.writer, expected)} is missing.")
        elif record.previous != previous:
            before = "run.json" if record.seq == 0 else layout.record_name(record.writer, record.seq - 1)
            problems.append(f"{record.name} does not follow {before} as it is now: one of them was changed.")
        previous, expected = record.digest, record.seq + 1
    return problems


def missing_heads(chains: Mapping[str, Iterable[Record]], ends: Iterable[str]) -> Iterator[str]:
    """Records that a completion, an analysis or an end file has seen, and that are gone or others now."""
    known = {(r.writer, r.seq): r.digest for chain in chains.values() for r in chain}
    seen = [
        (writer, int(seq), digest)
        for chain in chains.values()
        for record in chain
        for writer, (seq, digest) in record.heads.items()
    ]
    for name in ends:
        if match := layout.END.fullmatch(name):
            seen.append((match["writer"], int(match["seq"]), match["digest"]))
    for writer, seq, digest in dict.fromkeys(seen):
        if known.get((writer, seq)) != digest:
            yield f"the commit record {layout.record_name(writer, seq)} is missing or was changed."


def check_blob_name(name: str) -> str:
    """`name`, if a blob may be called so; UsageError otherwise."""
    if not layout.BLOB_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a blob: it must be a name, or FOLDER/name, that ends in .safetensors, .npy or .json."
        )
    return name
