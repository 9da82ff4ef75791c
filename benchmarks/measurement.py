"""What every benchmark shares: the machine, repeated interleaved timing, and how a result is stored.

Promises are ratios measured in one run: the cases of a comparison take turns, so that a busy minute hits all of them.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

LIBRARIES = ("torch", "transformers", "pyarrow", "duckdb", "polars", "pandas", "numpy")
WIDE_SPREAD = 1.5
"""Slowest over fastest round from which a case is marked as disturbed."""


def machine() -> dict[str, Any]:
    """The computer and the versions, without names or paths."""
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return {
        "cpu": _cpu_model(),
        "cores": len(_cores()),
        "cores_of_machine": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class Load:
    """How busy the cores that this process may use were with other things between two moments."""

    def __init__(self) -> None:
        self.load_before = os.getloadavg()[0]
        self._started, self._all, self._own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def as_json(self) -> dict[str, float]:
        """Load averages before and after, and the share of our cores that other processes used meanwhile."""
        cores = len(_cores())
        wall = time.perf_counter() - self._started
        others = (_busy_seconds() - self._all) - (_own_seconds() - self._own)
        return {
            "load_average_before": round(self.load_before, 2),
            "load_average_after": round(os.getloadavg()[0], 2),
            "cpu_share_of_other_processes": round(max(0.0, others) / (wall * cores), 3),
            "minutes": round(wall / 60, 1),
        }


def _busy_seconds() -> float:
    of_cores = psutil.cpu_times(percpu=True)
    ours = [of_cores[core] for core in _cores() if core < len(of_cores)]
    return sum(sum(t) - t.idle - getattr(t, "iowait", 0.0) - getattr(t, "guest", 0.0) for t in ours)


def _own_seconds() -> float:
    return sum(os.times()[:4])


@dataclass(frozen=True)
class Sample:
    """Repeated timings of one case, in seconds, in the order of the rounds."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """Fastest to slowest round, marked where they lie far apart."""
        low, high = min(self.seconds), max(self.seconds)
        return f"{_seconds(low)} to {_seconds(high)}" + (" (disturbed)" if high > WIDE_SPREAD * low else "")


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 0.1 else f"{value:.3g} s"


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """A case whose whole call is timed."""

    def run() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return run


class Quiet:
    """Runs a case when the machine is quiet, and again if it was disturbed, until the patience is used up."""

    def __init__(self, patience: float, spare_cores: float = 0.0) -> None:
        self.allowed = spare_cores + 0.3
        self.deadline = time.monotonic() + patience

    def run(self, case: Callable[[], float]) -> float:
        """Seconds of the first undisturbed run, or of the last one there was time for."""
        while True:
            while time.monotonic() < self.deadline and self._others(lambda: time.sleep(1.0))[0] > self.allowed:
                time.sleep(2.0)
            others, seconds = self._others(case)
            if others <= self.allowed or time.monotonic() >= self.deadline:
                return seconds

    @staticmethod
    def _others(call: Callable[[], Any]) -> tuple[float, Any]:
        """Cores that other processes used during a call, and what the call returned."""
        start, busy, own = time.perf_counter(), _busy_seconds(), _own_seconds()
        result = call()
        others = (_busy_seconds() - busy) - (_own_seconds() - own)
        return others / max(time.perf_counter() - start, 0.05), result


def interleave(
    cases: Mapping[str, Callable[[], float]], repeats: int, *, warm_up: bool = True, quiet: Quiet | None = None
) -> dict[str, Sample]:
    """Run every case `repeats` times, taking turns, the order turned around every other round.

    A case returns its own seconds, so that what it prepares or clears away need not count.
    """
    if warm_up:
        for case in cases.values():
            case()
    run = Quiet(0.0).run if quiet is None else quiet.run
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(repeats):
        for name in list(cases) if number % 2 == 0 else reversed(list(cases)):
            seconds[name].append(run(cases[name]))
    return {name: Sample(values) for name, values in seconds.items()}


def speed_ratio(ours: Sample, theirs: Sample, *, work: float = 1.0) -> float:
    """How many times as fast ours is, median over median; `work` is ours over theirs where it is not the same."""
    return work * theirs.median / ours.median


def ratio_range(ours: Sample, theirs: Sample, *, work: float = 1.0) -> str:
    """Smallest to largest ratio of a single round."""
    ratios = [work * b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


@dataclass
class Figures:
    """A table of the report."""

    title: str
    columns: Sequence[str]
    rows: list[list[Any]] = field(default_factory=list)

    def add(self, *values: Any) -> None:
        """Add a row."""
        self.rows.append(list(values))


@dataclass
class Result:
    """Everything one benchmark found."""

    name: str
    title: str
    settings: dict[str, Any]
    promises: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    load: Load = field(default_factory=Load)

    def promise(self, what: str, goal: float, measured: float, *, unit: str = "x", at_most: bool = False) -> None:
        """Add a promise; `at_most` where smaller is better."""
        met = measured <= goal if at_most else measured >= goal
        sign = "<=" if at_most else ">="
        self.promises.append(
            {"what": what, "goal": f"{sign} {goal:g} {unit}", "measured": round(measured, 4), "unit": unit, "met": met}
        )

    def table(self, title: str, *columns: str) -> Figures:
        """Begin a table of figures."""
        self.figures.append(Figures(title, columns))
        return self.figures[-1]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "measured_at": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "load": self.load.as_json(),
            "settings": self.settings,
            "promises": self.promises,
            "figures": [{"title": f.title, "columns": list(f.columns), "rows": f.rows} for f in self.figures],
            "notes": self.notes,
        }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; stores nothing")
    parser.add_argument("--repeats", type=int, help="rounds of each comparison")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait for other processes, at most")
    parser.add_argument("--output", type=Path, help="folder of the result files")
    parser.add_argument("--scratch", type=Path, help="folder for lakes and models; decides which disk is measured")
    return parser
