"""Environment variables that begin like settings: a collection refuses those that are none, so nothing else may."""

import re
from collections.abc import Iterator
from pathlib import Path

import tracelake
from tracelake.collect.configuration.config import ENVIRONMENT_PREFIX, OTHER_VARIABLES, CollectConfig

ROOT = Path(tracelake.__file__).parent
NAME = re.compile(ENVIRONMENT_PREFIX + r"[A-Z]+(?:_[A-Z]+)*\b")
FOLDERS = ("analysis", "benchmarks", "collect", "commands", "docs", "examples", "facade", "lake", "queries", "tests")
MISTYPED = {"TRACELAKE_BATCHSIZE"}
"""In a test of what is said then."""


def _texts() -> Iterator[tuple[Path, str]]:
    files = [ROOT / "Makefile", ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "pyproject.toml"]
    for folder in FOLDERS:
        files += [file for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".md", ".sh", ".yaml")]
    return ((file, file.read_text(encoding="utf-8")) for file in files)


def test_every_variable_that_is_named_may_be_set_while_collecting() -> None:
    settings = {f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in CollectConfig.model_fields}
    known = settings | set(OTHER_VARIABLES) | MISTYPED
    named = {(name, file.relative_to(ROOT)) for file, text in _texts() for name in NAME.findall(text)}
    assert {name for name, _ in named} & settings and set(OTHER_VARIABLES) <= {name for name, _ in named}
    partial = "TRACELAKE_PUSHGATEWAY"  # followed by the parts of a name
    assert sorted((name, str(file)) for name, file in named if name not in known and name != partial) == []
