"""Replaces a file as a whole: readers see the old one or the new one, never half of one."""

import os
import tempfile
from pathlib import Path

from ..lake.errors import ConfigError


def replace_file(target: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary one beside it, then a rename over it."""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}. Choose another folder with -o.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp makes private files; a chart gets the permissions of any new file.
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
