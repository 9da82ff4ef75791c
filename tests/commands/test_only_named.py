"""The command line with one verb says and does of it what the whole one does."""

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tracelake.cli import app
from tracelake.commands.toolkit.only_named import only_named

NAMES = sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_a_verb_alone_is_the_verb_among_others(name: str) -> None:
    alone = only_named(app, [name, "--help"])
    assert list(get_command(alone).commands) == [name]  # type: ignore[attr-defined]
    told = [CliRunner().invoke(one, [name, "--help"], prog_name="lake").output for one in (alone, app)]
    assert told[0] == told[1]
    assert len(told[0]) > 100


@pytest.mark.parametrize("words", [[], ["--help"], ["sqll"], ["--version"], [""]])
def test_what_names_no_verb_needs_them_all(words: list[str]) -> None:
    assert only_named(app, words) is app
    assert sorted(get_command(app).commands) == NAMES  # type: ignore[attr-defined]
