"""Work of DuckDB that Ctrl-C ends: by itself DuckDB looks for signals only while it makes some kinds of results."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import duckdb

Answer = TypeVar("Answer")
PATIENCE_S = 0.05
"""Between two attempts: an interrupt that comes before a statement has begun is lost."""


def interruptible(connection: "duckdb.DuckDBPyConnection", work: Callable[[], Answer]) -> Answer:
    """What `work` gives, done beside the main thread, which alone is told of Ctrl-C; then KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    with ThreadPoolExecutor(1, "lake-query") as beside:
        answer = beside.submit(work)
        try:
            return answer.result()
        except KeyboardInterrupt:
            while not answer.done():
                connection.interrupt()
                wait([answer], PATIENCE_S)
            raise
