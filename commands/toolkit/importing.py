"""Importing what stays until the process ends: nothing of it will ever be garbage."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def for_good() -> Iterator[None]:
    """Imports in the block: Python looks for garbage neither meanwhile nor later among what is there then.

    Of importing torch and transformers that is a tenth of the time, of a short answer, at its end, a fifth.
    """
    before, was_on = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            _keep()
        if was_on:
            gc.enable()


def end_at_once() -> None:
    """Let the process end without a last search for garbage."""
    atexit.register(_keep)


def _keep() -> None:
    """Take all that is there for no garbage, unless DuckDB is loaded: it tells of classes that were not freed."""
    if "duckdb" not in sys.modules:
        gc.freeze()
