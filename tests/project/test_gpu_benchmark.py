"""The script for a GPU runs anywhere with --small, so that a card that can be had for minutes is not lost to a typo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_everything_runs_in_small(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.collecting.gpu",
        "--small",
        "--output",
        tmp_path,
        "--scratch",
        tmp_path,
    ]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)
    (file,) = tmp_path.glob("gpu_*.json")
    facts = json.loads(file.read_text())
    assert all(promise["met"] for promise in facts["promises"]) and len(facts["promises"]) == 3
    titles = [table["title"] for table in facts["figures"]]
    assert [title.split(" ", 1)[0] for title in titles] == ["Stored", "A", "Training", "Random", "Random"]
    assert all(row for table in facts["figures"] for row in table["rows"])
