"""Runs all benchmarks, one after the other, each in a process of its own; options are passed on.

One alone, from the root of the repository: `python -m benchmarks.storing.store --quick`.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks.report import ORDER

HERE = Path(__file__).parent


def main() -> int:
    """Exit code 1 if a benchmark could not run; a missed goal is a result, not a failure."""
    failed = []
    for name in ORDER:
        print(f"== {name}", flush=True)
        (script,) = HERE.glob(f"*/{name}.py")
        module = f"benchmarks.{script.parent.name}.{name}"
        if subprocess.run([sys.executable, "-m", module, *sys.argv[1:]], cwd=HERE.parent).returncode != 0:
            failed.append(name)
    if failed:
        print(f"Could not run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
