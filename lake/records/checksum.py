"""Checksums of committed files: algorithm and digest. A commit record names both, so that older ones stay readable."""

import hashlib
from typing import NamedTuple, Protocol

from ..values import JsonView

_TITLES = {"blake3": "BLAKE3", "sha256": "SHA-256"}
_BLAKE3_SINCE = 2
_PIECE_BYTES = 1 << 20


class Hasher(Protocol):
    """What BLAKE3's objects and hashlib's have in common."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Take more bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        ...


class Readable(Protocol):
    """A file open for reading, Python's or Arrow's."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill `buffer` as far as there are bytes."""
        ...


class Checksum(NamedTuple):
    """What a committed file's bytes must come to: `algorithm` is `blake3` or `sha256`, `digest` 64 hex digits."""

    algorithm: str
    digest: str

    def __str__(self) -> str:
        return f"{self.title} {self.digest}"

    @property
    def title(self) -> str:
        """The algorithm's name as people write it."""
        return _TITLES[self.algorithm]

    def of_file(self, file: Readable) -> "Checksum":
        """The checksum, by the same algorithm, of what is left to read of `file`."""
        hasher = new_hasher(self.algorithm)
        piece = memoryview(bytearray(_PIECE_BYTES))
        while n_bytes := file.readinto(piece):
            hasher.update(piece[:n_bytes])
        return Checksum(self.algorithm, hasher.hexdigest())

    def of_bytes(self, data: bytes) -> "Checksum":
        """The checksum, by the same algorithm, of `data`."""
        hasher = new_hasher(self.algorithm)
        hasher.update(data)
        return Checksum(self.algorithm, hasher.hexdigest())


def algorithm_of(format_version: int) -> str:
    """The algorithm of a run's files, by the format of its run.json: a run keeps the one that it began with."""
    return "blake3" if format_version >= _BLAKE3_SINCE else "sha256"


def new_hasher(algorithm: str) -> Hasher:
    """An object that takes bytes in pieces."""
    if algorithm == "sha256":
        return hashlib.sha256()
    from blake3 import blake3  # here: many commands check nothing

    return blake3()


def named_checksum(entry: JsonView) -> Checksum:
    """The checksum that a file's entry in a record names; KeyError if it names none, TypeError for no text."""
    algorithm = next((name for name in _TITLES if name in entry), "blake3")
    digest = entry[algorithm]
    if type(digest) is not str:
        raise TypeError(f"{algorithm} is no text")
    return Checksum(algorithm, digest)
