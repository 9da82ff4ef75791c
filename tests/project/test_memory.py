"""Memory does not grow with the run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_fifty_times_the_sequences_need_no_more_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.collecting.memory", "--output", tmp_path, "--scratch", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True)
    found = json.loads((tmp_path / "memory.json").read_text(encoding="utf-8"))
    (promise,) = found["promises"]
    assert promise["what"] == "peak memory of 50,000 over 1,000 sequences"
    # Less would mean that the small run was measured wrongly.
    assert 0.9 <= promise["measured"] <= 1.1, found["figures"]
