"""When a run stops before its end, and when a sequence ends by a text."""

import time
from collections.abc import Callable

from ...lake.errors import StoppedError
from ..decoding.sequence import Sequence
from ..inputs.tokenizing.text import TokenText

SEAL_SECONDS = 5.0
"""A segment that is nearly done when the run is asked to stop is finished if that takes less than this."""


class Stopping:
    """Decides, once a stop was asked for, whether the open segment is worth finishing."""

    def __init__(self, should_stop: Callable[[], bool], command: str) -> None:
        self.should_stop = should_stop
        self.command = command
        self.asked_at: float | None = None
        self.batch_started = time.perf_counter()

    def after_block(self) -> None:
        """Stop at once if the segment has been open for too long since the stop was asked for."""
        if self.asked_at is None and self.should_stop():
            self.asked_at = time.perf_counter()
        if self.asked_at is not None and time.perf_counter() - self.asked_at > SEAL_SECONDS:
            raise StoppedError(stopped(self.command))

    def after_batch(self, batches_left: int) -> None:
        """Stop if the batches that the segment still needs would take too long."""
        now = time.perf_counter()
        seconds, self.batch_started = now - self.batch_started, now
        if self.asked_at is not None and batches_left * seconds > SEAL_SECONDS:
            raise StoppedError(stopped(self.command))


def stopped(command: str) -> str:
    """What to tell whoever asked to stop: `command` continues the run."""
    return f"Stopped; committed segments are safe. Continue with: {command}"


def stop_finder(text: TokenText, stops: tuple[str, ...]) -> Callable[[Sequence], bool]:
    """Whether one of the texts stands at the end of what a sequence wrote; looks at its last tokens only.

    Texts of special tokens are found too, though the completion omits them.
    """
    tail = max(len(stop.encode()) for stop in stops) + 8
    special = [stop for stop in stops if text.names_special(stop)]

    def found(sequence: Sequence) -> bool:
        ending = sequence.generated[-tail:]
        earlier = sequence.generated[:-tail] or sequence.read_ids
        written = text.written(ending, earlier)
        if any(stop in written for stop in stops):
            return True
        if not special or text.special.isdisjoint(ending):
            return False
        written = text.written(ending, earlier, special=True)
        return any(stop in written for stop in special)

    return found
