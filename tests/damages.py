"""Ways in which a file of a lake is damaged, each of which leaves its name, and most its size, as they were."""

import os
import random
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, Path, random.Random], None]
"""Called with a file, another one of the same table, and a source of chance."""


def _flip(bits: int) -> Damage:
    def damage(path: Path, _: Path, rng: random.Random) -> None:
        data = bytearray(path.read_bytes())
        for place in rng.sample(range(len(data)), bits):
            data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)

    return damage


def _block(fill: Callable[[int, random.Random], bytes], start: Callable[[int, int], int]) -> Damage:
    def damage(path: Path, _: Path, rng: random.Random) -> None:
        data = bytearray(path.read_bytes())
        size = min(512, len(data) // 4)
        place = start(len(data), size)
        # A block that is equal by chance is no damage.
        new = fill(size, rng)
        data[place : place + size] = new if new != data[place : place + size] else bytes(b ^ 1 for b in new)
        path.write_bytes(data)

    return damage


def _zeros(size: int, _: random.Random) -> bytes:
    return bytes(size)


def _noise(size: int, rng: random.Random) -> bytes:
    return rng.randbytes(size)


def _head(_: int, __: int) -> int:
    return 4


def _middle(length: int, size: int) -> int:
    return (length - size) // 2


def _tail(length: int, size: int) -> int:
    return length - size - 8


def _short(path: Path, _: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(1, path.stat().st_size)])


def _empty(path: Path, _: Path, __: random.Random) -> None:
    path.write_bytes(b"")


def _long(path: Path, _: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(64))


def _padded(path: Path, _: Path, __: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))


def _missing(path: Path, _: Path, __: random.Random) -> None:
    path.unlink()


def _other(path: Path, other: Path, _: random.Random) -> None:
    path.write_bytes(other.read_bytes())


def _swapped(path: Path, other: Path, _: random.Random) -> None:
    spare = path.with_suffix(".spare")
    os.rename(path, spare)
    os.rename(other, path)
    os.rename(spare, other)


def _hidden_times(path: Path, other: Path, rng: random.Random) -> None:
    status = path.stat()
    _flip(1)(path, other, rng)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _link(path: Path, other: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to(other)


def _pipe(path: Path, _: Path, __: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path, _: Path, __: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _unreadable(path: Path, other: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to(path)


DAMAGES: dict[str, Damage] = {
    "one bit": _flip(1),
    "two bits": _flip(2),
    "sixteen bits": _flip(16),
    "one bit, time set back": _hidden_times,
    "zeros at the head": _block(_zeros, _head),
    "zeros in the middle": _block(_zeros, _middle),
    "zeros at the tail": _block(_zeros, _tail),
    "noise at the head": _block(_noise, _head),
    "noise in the middle": _block(_noise, _middle),
    "noise at the tail": _block(_noise, _tail),
    "cut": _short,
    "empty": _empty,
    "longer": _long,
    "half, filled up with zeros": _padded,
    "missing": _missing,
    "another file's bytes": _other,
    "swapped with another": _swapped,
    "a link to another": _link,
    "a link to itself": _unreadable,
    "a pipe": _pipe,
    "a folder": _folder,
}
