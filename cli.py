"""The `lake` command: puts the verbs of `commands/` together; what is heavy is imported inside them."""

import sys
from typing import Annotated

import typer

from . import __version__
from .commands import ask, exchange, experiment, maintain, metrics, show_run
from .commands.analyses import analyze
from .commands.collecting import collect, demo
from .commands.sae import train as sae
from .commands.toolkit.either_run import either_run
from .commands.toolkit.only_named import only_named
from .commands.toolkit.outcome import outcome
from .commands.toolkit.verify_option import reading
from .commands.toolkit.whole_summaries import WholeSummaries

app = typer.Typer(
    name="lake",
    cls=WholeSummaries,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes would double the time of `lake --help`
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a user's mistake ends in a message and the exit code of its kind."""
    sys.exit(outcome(only_named(app, sys.argv[1:])))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tracelake {__version__}")
        raise typer.Exit


_VERSION = typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")


@app.callback()
def root(version: Annotated[bool, _VERSION] = False) -> None:
    """Record what a language model does into a Parquet lake, and ask it questions in SQL."""


app.command(cls=collect.CollectCommand)(collect.collect)
app.command()(ask.runs)
for _verb in (ask.show, ask.sql, ask.query, ask.chart, show_run.report, metrics.metrics):
    app.command()(reading(either_run(_verb)))
app.command()(reading(show_run.dashboard))
for _verb in (maintain.verify, maintain.rm):
    app.command()(either_run(_verb))
app.command()(maintain.vacuum)
app.command()(demo.demo)
_GROUPS = {group.NAME: group.app for group in (analyze, experiment, sae)}
for _name, _group in (_GROUPS | {"import": exchange.import_app, "export": exchange.export_app}).items():
    app.add_typer(_group, name=_name)

if __name__ == "__main__":
    main()
