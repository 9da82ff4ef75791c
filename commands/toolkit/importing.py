"""Importing the libraries of models: what they make stays, so looking for garbage meanwhile only takes time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """No search for garbage in the block: a tenth of the time of importing torch and transformers."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
