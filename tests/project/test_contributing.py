"""The map of the house in CONTRIBUTING.md names every folder that holds code, and every path that it sends to."""

import re
from pathlib import Path

from longest_files import LONGEST_FILES, TESTS

import tracelake

ROOT = Path(tracelake.__file__).parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FLOORS = ("lake", "collect", "queries", "analysis", "facade", "commands")


def _rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_map_is_the_tree() -> None:
    mapped = {re.findall(r"`([^`]+)/`", row[0])[0] for row in _rows("The map")}
    folders = {
        path.relative_to(ROOT).as_posix()
        for floor in FLOORS
        for path in [ROOT / floor, *(ROOT / floor).rglob("*")]
        if path.is_dir() and list(path.glob("*.py"))
    }
    assert mapped == folders


def test_every_place_exists() -> None:
    rows = _rows("Where does it belong?")
    assert len(rows) >= 10
    places = [place for row in rows for place in re.findall(r"`([a-z_]+/[a-z_/.]*)`", row[1])]
    assert len(places) >= len(rows) and all((ROOT / place).exists() for place in places), places


def test_every_command_and_test_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z-]+)`", TEXT):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for file in re.findall(r"`(?:tests/)?(test_[a-z_]+\.py|[a-z_]+_models\.py|plain_[a-z_]+\.py)`", TEXT):
        assert list((ROOT / "tests").rglob(file)), file


def test_files_that_begin_first_exist() -> None:
    assert all((TESTS / name).is_file() for name in LONGEST_FILES)
