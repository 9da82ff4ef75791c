"""What a reader must hear although nothing failed: on the standard log, so on stderr where nobody set one up."""

from collections.abc import Mapping
from pathlib import Path

from ..errors import LakeError

_named: set[tuple[Path, str, str]] = set()


def name_damaged(lake: Path, damaged: Mapping[str, LakeError]) -> None:
    """Name each run that could not be read, once per process: the others are read without it."""
    for run_id, error in damaged.items():
        text = f"Run {run_id} is left out, because it cannot be read. {error}"
        if (lake, run_id, text) not in _named:
            import logging

            _named.add((lake, run_id, text))
            printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
            logging.getLogger("tracelake").warning("lake: %s", printable)
