"""A progress bar with tokens per second and bytes, on stderr, only on a terminal."""

import sys
import time
from typing import TYPE_CHECKING

from .streams import steering

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from ...collect.running.collector import Progress

REFRESH_SECONDS = 0.1


class ProgressBar:
    """Shows the progress of one run between `with` and its end; silent when stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: tuple[Bar, TaskID] | None = None
        self._started = self._shown = 0.0

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def update(self, progress: "Progress") -> None:
        """Show how far the run is; cheap enough to be called after every step."""
        now = time.perf_counter()
        if not sys.stderr.isatty() or now - self._shown < REFRESH_SECONDS:
            return
        if self._bar is None:
            self._bar = self._open(now)
        self._shown = now
        seconds = now - self._started
        rate = f"{progress.n_tokens / seconds:,.0f}" if seconds > 1 else "..."
        bar, task = self._bar
        bar.update(
            task,
            total=progress.n_segments,
            completed=progress.segments_done,
            numbers=f"{progress.n_tokens:,} tokens at {rate} tokens/s  {progress.n_bytes / 1e6:,.1f} MB",
        )

    def _open(self, now: float) -> "tuple[Bar, TaskID]":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        numbers = TextColumn("segments  {task.fields[numbers]}")
        columns = (BarColumn(), MofNCompleteColumn(), numbers, TimeRemainingColumn())
        bar = Bar(*columns, console=Console(file=steering(sys.stderr)), transient=True)
        task = bar.add_task("collect", total=1, numbers="")
        bar.start()
        self._started = now
        return bar, task
