"""What a judge may be asked and may cost: every call reserves its worst before it is made."""

import threading
from dataclasses import dataclass, field
from typing import Self

from ....lake.errors import UsageError

MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """USD per million tokens read and written."""

    read: float
    written: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD for so many tokens."""
        return (prompt_tokens * self.read + completion_tokens * self.written) / MILLION


@dataclass(frozen=True)
class Allowance:
    """What a piece of work may ask of a service, and at what price."""

    max_calls: int = 200
    """Requests, retries included."""
    max_usd: float | None = 1.0
    """None trusts `max_calls` alone."""
    price: Price | None = None
    """As the service says, if not given."""
    concurrency: int = 4
    """Requests at once."""

    @classmethod
    def of(
        cls, max_calls: int, max_usd: float | None, usd_per_million: tuple[float, float] | None, concurrency: int
    ) -> Self:
        """With the price of tokens read and written, if it is given."""
        return cls(max_calls, max_usd, None if usd_per_million is None else Price(*usd_per_million), concurrency)

    def check(self) -> None:
        """UsageError for what cannot be."""
        for flag, value in (("--max-calls", self.max_calls), ("--concurrency", self.concurrency)):
            if value < 1:
                raise UsageError(f"{flag} must be 1 or more, not {value}.")
        if self.max_usd is not None and not self.max_usd > 0:
            raise UsageError(f"--max-usd must be more than 0, not {self.max_usd:g}.")
        for usd in () if self.price is None else (self.price.read, self.price.written):
            if not 0 <= usd < float("inf"):
                raise UsageError(f"--usd-per-million: a price is a number from 0 on, not {usd:g}.")

    def limits(self) -> "Limits":
        """All of it, nothing spent yet."""
        return Limits(self.max_calls, self.max_usd)


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
