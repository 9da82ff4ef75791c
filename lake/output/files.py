"""Files that the user names with `-o`: written whole or not at all.

A plain file is replaced by a rename, so that nobody sees half of it; a device or a pipe is written to, as a shell
would; a link stays a link.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigError, DiskFullError, LakeError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replaced(target: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes the place of `target` when the block ends well, and vanishes when it does not.

    ConfigError if there can be no such file, DiskFullError if there is no room for it.
    """
    try:
        with _through(target) if _is_special(target) else _beside(target) as file:
            yield file
    except OSError as error:
        raise _refusal(target, error) from error


def replace_file(target: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replaced(target) as file:
        file.write(content)


def _is_special(target: Path) -> bool:
    """Whether `target` is no plain file and no place for one: a device, a pipe, another name of an open file."""
    place = os.path.abspath(target)
    in_memory = place.startswith("/dev/shm/")  # a disk with plain files
    if place.startswith(("/dev/", "/proc/")) and not in_memory:
        return True
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return not stat.S_ISREG(mode)


@contextmanager
def _through(target: Path) -> Iterator[BinaryIO]:
    """The device or pipe itself."""
    with target.open("wb") as file:
        yield file


@contextmanager
def _beside(target: Path) -> Iterator[BinaryIO]:
    """A draft beside the file that `target` is or links to."""
    place = Path(os.path.realpath(target))
    draft = place.parent / f".{place.name}.{secrets.token_hex(4)}.part"
    file = draft.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                os.chmod(draft, stat.S_IMODE(place.stat().st_mode))  # a replaced file stays as open as it was
        draft.replace(place)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def _refusal(target: Path, error: OSError) -> LakeError:
    if error.errno in _FULL:
        return DiskFullError(f"{target} cannot be written: the disk is full. What was there before is untouched.")
    if error.errno == errno.EISDIR:
        return ConfigError(f"{target} is a folder. Name a file in it with -o.")
    return ConfigError(f"{target} cannot be written: {error.strerror}. Choose another file with -o.")
