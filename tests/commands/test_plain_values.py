"""Values of parameters that are turned without pydantic are those that typer makes by way of it."""

import os
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.core import TyperArgument, TyperCommand, TyperOption
from typer.main import get_command
from typer.testing import CliRunner

from tracelake.commands.toolkit.plain_values import PlainValue

FILE, ABSENT, SECRET = "there.txt", "absent", "secret"
VALUES: tuple[Any, ...] = (
    None, "", "a", " b ", "1", "-3", "2.5", "true", "é😀", "a/../b", "~/x", ABSENT, FILE, ".", SECRET, b"bytes", 3, 2.5,
    True, Path("a"), (), [], ["a", "b"], ("a",), ("a", 3), ("1", "2"), "red", "blue",
)  # fmt: skip


def _verb(
    bare: Annotated[str, typer.Argument()],
    several: Annotated[list[str], typer.Argument()],
    text: Annotated[str | None, typer.Option()] = None,
    texts: Annotated[list[str] | None, typer.Option()] = None,
    path: Annotated[Path, typer.Option()] = Path("lakehouse"),
    paths: Annotated[list[Path] | None, typer.Option()] = None,
    existing: Annotated[Path | None, typer.Option(exists=True)] = None,
    file: Annotated[Path | None, typer.Option(dir_okay=False)] = None,
    resolved: Annotated[Path | None, typer.Option(resolve_path=True)] = None,
    whole: Annotated[int, typer.Option()] = 3,
    bounded: Annotated[int, typer.Option(min=0, max=2)] = 1,
    number: Annotated[float, typer.Option()] = 2.5,
    numbers: Annotated[list[int] | None, typer.Option()] = None,
    flag: Annotated[bool, typer.Option("--flag")] = False,
    parsed: Annotated[str | None, typer.Option(parser=lambda value: str(value).upper())] = None,
) -> None: ...


def _parameters() -> dict[str, TyperOption | TyperArgument]:
    app = typer.Typer(add_completion=False)
    app.command()(_verb)
    command = get_command(app)
    assert isinstance(command, TyperCommand)
    return {one.name: one for one in command.params if isinstance(one, TyperOption | TyperArgument) and one.name}


def _outcome(coercer: Any, value: Any, parameter: Any) -> tuple[str, Any, Any]:
    try:
        made = coercer.coerce(value, param=parameter, ctx=None)
    except typer.BadParameter as refusal:
        return "refused", type(refusal), refusal.message
    return "made", type(made), made


@pytest.mark.parametrize("name", _parameters())
def test_values_are_those_of_typer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(FILE).touch()
    Path(SECRET).touch()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != SECRET and access(path, mode))
    parameter = _parameters()[name]
    for value in VALUES:
        ours = _outcome(PlainValue(parameter), value, parameter)
        assert ours == _outcome(parameter.get_runtime_param(), value, parameter), value


def test_a_verb_gets_its_values_and_a_bad_one_its_message(tmp_path: Path) -> None:
    from tracelake.commands.toolkit.whole_summaries import WholeSummaries

    seen: list[Any] = []
    app = typer.Typer(cls=WholeSummaries, rich_markup_mode=None)

    @app.command()
    def one(
        text: str, more: list[str], path: Path = Path("lakehouse"), limit: Annotated[int, typer.Option(max=5)] = 2
    ) -> None:
        seen.extend([text, more, path, limit])

    @app.command()
    def other() -> None: ...

    runner = CliRunner()
    assert runner.invoke(app, ["one", "a", "b", "c", "--path", str(tmp_path), "--limit", "4"]).exit_code == 0
    assert seen == ["a", ["b", "c"], tmp_path, 4]
    refused = runner.invoke(app, ["one", "a", "b", "--limit", "6"])
    assert refused.exit_code == 2 and "Invalid value for '--limit'" in refused.output and len(seen) == 4
