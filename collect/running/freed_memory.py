"""Freed memory goes back to the system after segments, so that a long run needs no more of it than a short one.

Segments are written by threads of their own, and glibc keeps what each of them has freed in places of their own.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Ask the C library for it once; a library that has no such call needs none."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
