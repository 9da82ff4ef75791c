"""Where encoding, writing (with hashing) and syncing run beside each other."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any

from ..storage.store import Store

ENCODERS = 2  # files written at once: encoding is bound by one core's memory traffic


class Threads:
    """The threads of one segment; everything is done in line if the disk is a model of one."""

    def __init__(self, store: Store) -> None:
        self._encode = ThreadPoolExecutor(ENCODERS, "lake-encode") if store.parallel else None
        self._beside = ThreadPoolExecutor(1, "lake-spill") if store.parallel else None
        self._write = ThreadPoolExecutor(1, "lake-write") if store.parallel else None
        self._sync = ThreadPoolExecutor(4, "lake-sync") if store.parallel else None
        self._encoding = 0
        self._count = Lock()

    def each(self, write: Callable[[Any], None], items: list[Any]) -> None:
        """Call `write` with each item, some at a time; the first error is raised when all have ended."""
        if self._encode is None:
            for item in items:
                write(item)
            return
        futures = [self._encode.submit(self._counted, write, item) for item in items]
        wait(futures)
        for future in futures:
            future.result()

    def _counted(self, write: Callable[[Any], None], item: Any) -> None:
        with self._count:
            self._encoding += 1
        try:
            write(item)
        finally:
            with self._count:
                self._encoding -= 1

    def beside(self, write: Callable[[Any], None], items: list[Any]) -> Future[None] | None:
        """Begin to do the same beside the caller, who waits for the future before the next time."""
        if self._beside is None:
            return self.each(write, items)
        return self._beside.submit(self.each, write, items)

    def feed(self, take: Callable[[list[bytes]], None], pieces: list[bytes]) -> Future[None] | None:
        """Begin to call `take`; calls are made one after another, in their order."""
        if self._write is None:
            return take(pieces)
        return self._write.submit(take, pieces)

    def sync(self, sync: Callable[[], None], *, after: list[Future[None]]) -> Future[None] | None:
        """Call `sync` when `after` have ended well; the caller waits for the future before it trusts the bytes."""
        if self._sync is None:
            return sync()
        return self._sync.submit(_when_ended, sync, after)

    @property
    def busy(self) -> bool:
        """Whether several files are being encoded: each thread then does best to write what it has just encoded."""
        return self._encoding > 1

    @property
    def inline(self) -> bool:
        """Whether everything is done in line, so that nothing is gained by beginning early."""
        return self._sync is None

    def close(self) -> None:
        """End the threads."""
        for pool in (self._beside, self._encode, self._write, self._sync):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)


def _when_ended(sync: Callable[[], None], after: list[Future[None]]) -> None:
    for future in after:
        future.result()
    sync()
