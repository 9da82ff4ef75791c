"""What the verbs of the command line share: options that mean the same everywhere, and how they print."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..lake.output.printable import printable
from .toolkit.completion import runs
from .toolkit.importing import for_good
from .toolkit.streams import steering

if TYPE_CHECKING:
    from ..facade.open_lake import OpenLake

LakePath = Annotated[
    Path, typer.Option("--lake", envvar="TRACELAKE_LAKE", help="Folder of the lake.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with stable keys.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option("--allow-host", metavar="NAME", help="Answer to this host name too, not only to localhost."),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Run id, unique prefix, tag, or `latest`.", autocompletion=runs)
]
AnyRun = Annotated[
    str, typer.Argument(metavar="[RUN]", help="Run id, unique prefix, tag, or `latest`.", autocompletion=runs)
]
RunOption = Annotated[
    str | None, typer.Option("--run", help="Run id, unique prefix, tag, or `latest`.", autocompletion=runs)
]
Params = Annotated[list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="Value of a parameter.")]
HERE = Path("lakehouse")


def say(text: str) -> None:
    """A message: to stderr, so that results can be piped."""
    print(text, file=sys.stderr)


def overwrite(text: str, *, last: bool) -> None:
    """A line on the terminal that the next one takes the place of, unless it is the last."""
    print(f"\r{printable(text)}", end="\n" if last else "", file=steering(sys.stderr), flush=True)


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def open_lake(path: Path) -> "OpenLake":
    """The lake that the options name; NotFoundError if there is none."""
    with for_good():
        from ..facade.open_lake import OpenLake

    return OpenLake.open(path)
