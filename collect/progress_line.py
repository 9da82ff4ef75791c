"""How far a collection is, as one line that is written over: in a notebook or a terminal, where a program calls it."""

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from .running.collector import Progress

REFRESH_SECONDS = 0.5


def is_watched() -> bool:
    """Whether somebody looks: stderr is a terminal, or a notebook shows it."""
    ipython = sys.modules.get("IPython")
    in_notebook = ipython is not None and type(ipython.get_ipython()).__name__ == "ZMQInteractiveShell"
    return in_notebook or sys.stderr.isatty()


class ProgressLine:
    """Writes the line; `finish` ends it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._started = time.perf_counter()
        self._written = float("-inf")
        self._width = 0

    def update(self, progress: "Progress") -> None:
        """Show how far the run is; cheap enough to be called after every step."""
        now = time.perf_counter()
        if now - self._written < REFRESH_SECONDS:
            return
        self._written = now
        rate = progress.n_tokens / max(now - self._started, 1e-9)
        text = (
            f"{progress.segments_done}/{progress.n_segments} segments, {progress.n_tokens:,} tokens "
            f"({rate:,.0f}/s), {progress.n_bytes / 1e6:,.1f} MB"
        )
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)

    def say(self, text: str) -> None:
        """A notice on a line of its own."""
        self.finish()
        self._stream.write(f"{text}\n")

    def finish(self) -> None:
        """End the line, if there is one."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0
