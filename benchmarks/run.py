"""Runs all benchmarks, one after the other, each in a process of its own; options are passed on."""

import subprocess
import sys
from pathlib import Path

from report import ORDER


def main() -> int:
    """Exit code 1 if a benchmark could not run; a missed goal is a result, not a failure."""
    failed = []
    for name in ORDER:
        print(f"== {name}", flush=True)
        script = Path(__file__).with_name(f"{name}.py")
        if subprocess.run([sys.executable, script, *sys.argv[1:]]).returncode != 0:
            failed.append(name)
    if failed:
        print(f"Could not run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
