"""The table of verbs says what the verbs say of themselves, and listing them imports none."""

import os
import re
import subprocess
import sys

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from tracelake.cli import app
from tracelake.commands.verbs import VERBS


@pytest.mark.parametrize("name", VERBS)
def test_the_list_says_of_a_verb_what_its_help_begins_with(name: str) -> None:
    command = VERBS[name].command(name)
    assert " ".join(command.get_short_help_str(limit=500).split()) == VERBS[name].summary
    assert " ".join((command.help or "").split()).startswith(VERBS[name].summary)
    assert command.name == name and not command.hidden


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_called_through_the_whole_program(name: str) -> None:
    told = CliRunner().invoke(app, [name, "--help"], prog_name="lake")
    assert told.exit_code == 0
    assert told.output.startswith(f"Usage: lake {name} ") and len(told.output) > 100


@pytest.mark.parametrize("name", ["analyze", "experiment", "sae", "import", "export"])
def test_a_group_is_whole_where_no_other_is_imported(name: str) -> None:
    program = f"import sys; sys.argv = ['lake', {name!r}, '--help']; from tracelake.cli import main; main()"
    wide = {**os.environ, "COLUMNS": "80"}
    alone = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=wide, timeout=60)
    for other in VERBS:
        VERBS[other].command(other)
    whole = CliRunner().invoke(app, [name, "--help"], prog_name="lake", env=wide)
    assert alone.stdout.split() == whole.output.split()  # lines may be broken elsewhere


def test_help_lists_every_verb_in_order() -> None:
    told = CliRunner().invoke(app, ["--help"], prog_name="lake").output
    listed = re.findall(r"^  (\S+)", told.partition("Commands:\n")[2], re.MULTILINE)
    assert listed == list(VERBS)
    assert list(get_command(app).commands) == listed  # type: ignore[attr-defined]


def test_an_unknown_verb_is_answered_with_those_that_are_near() -> None:
    told = CliRunner().invoke(app, ["sqll"], prog_name="lake")
    assert told.exit_code == 2
    assert "No such command 'sqll'. Did you mean 'sql'?" in told.output
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    assert group.get_command(None, "sqll") is None  # type: ignore[arg-type]
    assert "sqll" not in group.commands and len(group.commands) == len(VERBS)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lake s", ["show", "sql", "sae"]),
        ("lake ", list(VERBS)),
        ("lake --ver", ["--version"]),
        ("lake sae tr", ["train"]),
    ],
)
def test_the_shell_completes_verbs(line: str, offered: list[str]) -> None:
    program = "import sys; sys.argv = ['lake']; from tracelake.cli import main; main()"
    complete = {"_LAKE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **complete}, timeout=60
    )
    assert told.stdout.split() == offered
