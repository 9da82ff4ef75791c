"""A file written whole or not at all: a temporary one beside it, then a rename over it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigError


@contextmanager
def replaced(target: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes the place of `target` when the block ends well, and vanishes when it does not."""
    draft = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    try:
        file = draft.open("xb")
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}. Choose another file with -o.") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink()
        if isinstance(error, OSError):
            raise ConfigError(f"{target} cannot be written: {error.strerror}. Choose another file with -o.") from error
        raise
