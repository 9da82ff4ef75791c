"""A run as an argument or as --run, in every verb that takes one; what the shell completes; what a start says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from lake_command import lake_command
from typer.testing import CliRunner

from tracelake.cli import app
from tracelake.commands.collecting.collect import full_command
from tracelake.lake import Lake

RUN = "one-run"


@pytest.fixture
def lake(tmp_path: Path) -> str:
    made = Lake.create(tmp_path / "lake")
    for run_id, model in ((RUN, "example/small"), ("other-run", "example/other")):
        with made.start_run(run_id, {"kind": "generate", "model": {"name": model}}) as run:
            with run.segment(0, (0, 1)) as segment:
                keys = {"sequence_id": [0, 0], "position": np.arange(2, dtype=np.int32), "stack": "decoder"}
                segment.append("sequences", {"sequence_id": [0], "prompt": ["p"]})
                segment.append("token_steps", keys)
            run.finish()
    return str(made.path)


def verbs(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the command line, with the words that call it."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from verbs(command, (*names, name))
        else:
            yield (*names, name), command


def test_every_verb_about_a_run_takes_it_in_both_forms() -> None:
    with_a_run = []
    for names, command in verbs(typer.main.get_command(app)):
        forms = {type(p).__name__.removeprefix("Typer") for p in command.params if p.name in ("run", "run_too")}
        # Behind a list of other things an argument would be the last of them.
        listed = any(p.nargs == -1 and p.name not in ("run", "run_too") for p in command.params)
        # The steps of an experiment are those of its file: a run stands in for one that they would collect.
        of_a_file = any(p.name == "config" for p in command.params) and names[0] == "experiment"
        if forms and not listed and not of_a_file:
            assert forms == {"Argument", "Option"}, names
            with_a_run.append(names)
    assert {("show",), ("rm",), ("verify",), ("sql",), ("query",), ("chart",), ("report",), ("analyze", "embed"),
            ("export", "vectors"), ("import", "labels")} <= set(with_a_run)  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [["show"], ["verify"], ["query", "finish_reasons"], ["sql", "select count(*) from token_steps"], ["rm"]],
)
def test_both_forms_mean_the_same_and_one_is_enough(lake: str, words: list[str]) -> None:
    as_argument = lake_command(*words, RUN, "--lake", lake)
    assert as_argument == lake_command(*words, "--run", RUN, "--lake", lake) and as_argument[0] == 0
    code, message = lake_command(*words, RUN, "--run", "other-run", "--lake", lake)
    assert code == 2 and "given twice" in message and RUN in message


def test_a_verb_that_needs_a_run_says_so(lake: str) -> None:
    code, message = lake_command("rm", "--lake", lake)
    assert code == 2 and "lake runs" in message


def test_models_of_the_lake_are_completed(lake: str) -> None:
    environment = {"_LAKE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"lake collect --lake {lake} --model e"}
    output = CliRunner().invoke(app, prog_name="lake", env=environment).output
    assert "example/small" in output and "example/other" in output and "tinymath" not in output
    environment["_TYPER_COMPLETE_ARGS"] = f"lake show --lake {lake} --run on"
    assert RUN in CliRunner().invoke(app, prog_name="lake", env=environment).output
    assert full_command().name == "collect"


def test_a_template_that_was_applied_is_said(tmp_path: Path) -> None:
    from tracelake.collect.configuration.config import CollectConfig
    from tracelake.collect.running.collector import Collection

    for chat, said in (("auto", True), ("off", False)):
        config = CollectConfig(prompt=("1 + 1",), max_new_tokens=1, chat=chat, device="cpu")
        assert any("chat template" in text for text in Collection(config, weights=False).notices) == said


def test_no_summary_is_cut() -> None:
    for words in ([], ["import"], ["analyze"]):
        output = CliRunner().invoke(app, [*words, "--help"]).output
        assert "..." not in output.partition("Commands:")[2], output
