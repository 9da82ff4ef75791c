"""What the caller of a collection hears while it runs, and what it gets in the end."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Progress:
    """How far a run is, for whoever shows it."""

    n_segments: int
    segments_done: int = 0
    n_tokens: int = 0
    n_bytes: int = 0


@dataclass(frozen=True)
class Collected:
    """What a finished call of `collect` leaves."""

    run_id: str
    n_sequences: int
    n_tokens: int
    n_bytes: int
    seconds: float
    notices: tuple[str, ...]


@dataclass
class Callbacks:
    """What the caller wants to hear, and how it asks to stop."""

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_notice: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False
