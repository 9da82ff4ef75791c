"""`make soak`: attacks of many kinds, for minutes rather than seconds, and a table of their counts and what held.

Each line is a test of the suite at its full size; it counts what it did, and fails where something did not hold.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ATTACKS = {
    "kills at every operation of every verb that writes": "store/test_killed_verbs.py",
    "kills while removing and sweeping": "store/test_lake_sweep_kills.py",
    "errors of every disk operation": "store/test_lake_faults.py",
    "damages x read paths": "store/test_checked_reads.py",
    "statements of DuckDB's own catalogue": "store/test_sql_doors.py",
    "hostile run.json and records": "store/test_lake_hostile.py",
    "hostile model and embedder folders": "collecting/test_hostile_models.py",
    "control characters through every verb": "commands/test_terminal.py",
    "wrong hosts and origins": "presenting/test_servers.py",
}


class Counts:
    """Collects what the tests counted, and which of them failed."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.n_tests = self.n_failed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test is over."""
        if report.when != "call" and not report.failed:
            return
        self.n_tests += 1
        self.n_failed += report.failed
        for name, value in report.user_properties:
            self.numbers[name] = self.numbers.get(name, 0) + float(value)  # type: ignore[arg-type]


def attack(name: str) -> int:
    """Run one attack in this process and say what held; 0 if all did, and something was tried."""
    counts, began = Counts(), time.monotonic()
    path = str(Path(__file__).parent / ATTACKS[name])
    code = pytest.main(["-q", "-p", "no:xdist", "-m", "slow or not slow", path], plugins=[counts])
    held = code == pytest.ExitCode.OK and counts.n_tests > 0
    numbers = ", ".join(f"{value:,.0f} {what}" for what, value in counts.numbers.items())
    outcome = "held" if held else f"{counts.n_failed} FAILED" if counts.n_failed else f"NOT RUN (pytest: {code!r})"
    seconds = time.monotonic() - began
    print(f"{name}: {outcome}; {numbers or f'{counts.n_tests} cases'} ({seconds:,.0f} s)", flush=True)
    return 0 if held else 1


def main(chosen: list[str]) -> int:
    """Run the attacks whose names hold one of the words given, or all; the number of those that failed."""
    names = [name for name in ATTACKS if not chosen or any(word in name for word in chosen)]
    if not names:
        print(f"No attack has one of these words in its name: {', '.join(chosen)}. There are: {'; '.join(ATTACKS)}.")
        return 1
    if len(names) == 1:
        return attack(names[0])
    # In a process each: a session of pytest leaves more behind than the next one may find.
    return sum(subprocess.run([sys.executable, __file__, name], check=False).returncode != 0 for name in names)


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
