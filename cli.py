"""The `lake` command: the entry point; verbs are in `commands/`, listed by its `verbs.py`."""

import sys
from typing import Annotated

import typer

from . import __version__
from .commands.toolkit.importing import end_at_once
from .commands.toolkit.outcome import outcome
from .commands.verbs import VerbGroup

app = typer.Typer(
    name="lake",
    cls=VerbGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes would double the time of `lake --help`
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a user's mistake ends in a message and the exit code of its kind."""
    end_at_once()
    sys.exit(outcome(app))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tracelake {__version__}")
        raise typer.Exit


_VERSION = typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")


@app.callback()
def root(version: Annotated[bool, _VERSION] = False) -> None:
    """Record what a language model does into a Parquet lake, and ask it questions in SQL."""


if __name__ == "__main__":
    main()
