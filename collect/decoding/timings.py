"""Where the time of a run goes: named operations with count, total and longest call."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WALL = "wall"
"""Name under which all time that passed is recorded, whatever was done in it."""


@dataclass
class Operation:
    """One named operation; times in milliseconds of wall time."""

    parent: str | None
    count: int = 0
    total_ms: float = 0.0
    max_ms: float = 0.0


class Timings:
    """Adds up operations until they are taken; nesting gives the parent."""

    def __init__(self) -> None:
        self.operations: dict[str, Operation] = {}
        self._open: list[str] = []
        self._since = time.perf_counter()

    def begin(self) -> None:
        """Count wall time from now on, and for what was measured before: a pause in between is nobody's work."""
        measured = sum(operation.total_ms for operation in self.operations.values() if operation.parent is None)
        self._since = time.perf_counter() - measured / 1000

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the block under `name`, inside whatever is being measured around it."""
        parent = self._open[-1] if self._open else None
        self._open.append(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._open.pop()
            self.add(name, (time.perf_counter() - start) * 1000, parent)

    def add(self, name: str, ms: float, parent: str | None = None) -> None:
        """Count one call of `name` that took `ms`."""
        operation = self.operations.setdefault(name, Operation(parent))
        operation.count += 1
        operation.total_ms += ms
        operation.max_ms = max(operation.max_ms, ms)

    def take(self) -> dict[str, Operation]:
        """What was added since the last call, and `wall`, all time that passed; starts afresh."""
        now = time.perf_counter()
        self.add(WALL, (now - self._since) * 1000)
        self._since = now
        taken, self.operations = self.operations, {}
        return taken
