"""What a judge may be asked and may cost: every call reserves its worst before it is made."""

import threading
from dataclasses import dataclass, field

MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """USD per million tokens read and written."""

    read: float
    written: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD for so many tokens."""
        return (prompt_tokens * self.read + completion_tokens * self.written) / MILLION


@dataclass
class Limits:
    """Calls and USD left. Safe to use from several threads: what is reserved counts as spent until it is settled."""

    max_calls: int
    max_usd: float | None
    calls: int = 0
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    reached: str | None = None
    """Which limit stopped the work; None while none did."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def reserve(self, worst_usd: float) -> bool:
        """Whether one more call of that worst cost fits; if so it counts from now on."""
        with self._lock:
            if self.calls >= self.max_calls:
                self.reached = self.reached or f"--max-calls {self.max_calls}"
                return False
            # Rounding must not refuse what fits exactly.
            if self.max_usd is not None and self.spent_usd + self.reserved_usd + worst_usd > self.max_usd * (1 + 1e-9):
                self.reached = self.reached or f"--max-usd {self.max_usd:g}"
                return False
            self.calls += 1
            self.reserved_usd += worst_usd
            return True

    def settle(self, worst_usd: float, cost_usd: float | None) -> None:
        """A call is over: what it cost takes the place of its reserve, which stays where the cost is unknown."""
        with self._lock:
            self.reserved_usd -= worst_usd
            self.spent_usd += worst_usd if cost_usd is None else cost_usd
