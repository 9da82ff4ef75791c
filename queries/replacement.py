"""Replaces a file as a whole: readers see the old one or the new one, never half of one."""

from pathlib import Path

from ..lake.exchange.output import replaced


def replace_file(target: Path, content: bytes) -> None:
    """Write a file whole or not at all; ConfigError where it cannot be written."""
    with replaced(target) as file:
        file.write(content)
