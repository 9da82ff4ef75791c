"""`make soak` says that something held only where something was tried."""

import subprocess
import sys
from pathlib import Path

import pytest
from soak import ATTACKS

TESTS = Path(__file__).parents[1]
FILES = {
    "holds": ("def test_it(): assert True", 0, "held; 1 cases"),
    "fails": ("def test_it(): assert False", 1, "1 FAILED"),
    "empty": ("", 1, "NOT RUN"),
    "broken": ("import nothing_of_that_name", 1, "NOT RUN"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_attack_holds_only_if_it_was_tried(name: str, tmp_path: Path) -> None:
    text, code, said = FILES[name]
    (tmp_path / "test_attack.py").write_text(text, encoding="utf-8")
    attacks = {"one attack": str(tmp_path / "test_attack.py")}
    run = f"import sys, soak; soak.ATTACKS = {attacks!r}; sys.exit(soak.main([]))"
    ended = subprocess.run([sys.executable, "-c", run], cwd=TESTS, capture_output=True, text=True, check=False)
    assert (ended.returncode, said in ended.stdout) == (code, True), ended.stdout + ended.stderr


def test_every_attack_has_its_file_and_every_word_an_attack() -> None:
    assert [path for path in ATTACKS.values() if not (TESTS / path).is_file()] == []
    ended = subprocess.run([sys.executable, TESTS / "soak.py", "xyz"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "xyz" in ended.stdout
