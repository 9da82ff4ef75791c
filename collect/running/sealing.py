"""A finished segment is encoded, hashed, synced and committed while the model fills the next one; at most one waits."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from ...lake.writing.segments import SegmentWriter
from ...lake.writing.writer import RunWriter
from ..decoding.timings import Timings
from .freed_memory import give_back

BESIDE = "beside"
"""Parent of what is timed beside the run: no part of the time that passes."""
GIVE_BACK_S = 2.0
"""Seconds between giving freed memory back, which costs some 30 ms: tiny segments follow each other faster."""


class Sealing:
    """Seals the segments of one run in their order, each in a thread beside the next one's collection."""

    def __init__(self, run: RunWriter, timings: Timings) -> None:
        self.run, self.timings = run, timings
        self.waited_ms = 0.0
        """How long the run waited for the segment before."""
        self._thread = ThreadPoolExecutor(1, "lake-seal") if run.store.parallel else None
        self._pending: Future[float] | None = None
        self._given_back = time.perf_counter()

    def take(self, segment: SegmentWriter) -> None:
        """Begin to seal the run's open segment, once the one before it is committed; its error is raised here."""
        self.wait()
        self.run.hand_over()
        if self._thread is not None:
            self._pending = self._thread.submit(self._seal, segment)
            return
        self.waited_ms = self._seal(segment)
        self._count(self.waited_ms)

    def check(self) -> None:
        """Raise the error of a sealing that has failed meanwhile."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until everything taken is committed."""
        if self._pending is None:
            return
        began = time.perf_counter()
        pending, self._pending = self._pending, None
        seal_ms = pending.result()
        self.waited_ms = (time.perf_counter() - began) * 1000
        self._count(seal_ms)

    def _seal(self, segment: SegmentWriter) -> float:
        """Seal it; returns the milliseconds that took."""
        began = time.perf_counter()
        segment.seal()
        ended = time.perf_counter()
        if ended - self._given_back > GIVE_BACK_S:
            give_back()
            self._given_back = ended
        return (ended - began) * 1000

    def _count(self, seal_ms: float) -> None:
        self.timings.add("write", self.waited_ms)
        self.timings.add("seal", seal_ms, BESIDE)

    def __enter__(self) -> "Sealing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was taken is sealed, also when the run is stopped; the first error is the one that is raised."""
        try:
            if self._pending is not None and kind is None:
                self.wait()
            elif self._pending is not None and (failure := self._pending.exception()) is not None and error is not None:
                error.add_note(f"The segment before could not be written either: {failure}")
        finally:
            if self._thread is not None:
                self._thread.shutdown()
