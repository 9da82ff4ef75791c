"""How commands end: exit codes, and what is said on stderr."""

import pytest
import typer

from tracelake.commands.toolkit.outcome import INTERRUPTED, outcome

app = typer.Typer()


@app.command()
def command(how: str) -> None:
    """Ends in the given way."""
    if how == "interrupted":
        raise KeyboardInterrupt
    raise typer.Exit(int(how))


@pytest.mark.parametrize(
    ("how", "code", "said"), [("interrupted", INTERRUPTED, "lake: interrupted\n"), ("0", 0, ""), ("7", 7, "")]
)
def test_an_interrupted_command_says_so(
    how: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lake", how])
    assert outcome(app) == code
    assert capsys.readouterr().err == said
