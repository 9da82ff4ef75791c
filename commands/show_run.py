"""The verbs that show a whole run to a person: `lake report` and `lake dashboard`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .terminal import HERE, AllowHost, AnyRun, AsJson, LakePath, open_lake, print_json, say
from .toolkit.completion import themes


def report(
    run: AnyRun = "latest",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file; report-RUN.html if not given.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Thresholds of the health flags: default, gpt2, llama...")] = "default",
    sequence: Annotated[
        list[int] | None, typer.Option(help="Show this sequence; may repeat. Else the riskiest, longest, first.")
    ] = None,
    theme: Annotated[str, typer.Option(help="light or dark.", autocompletion=themes)] = "light",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Write one run as an HTML page that needs no network: health, uncertainty, tokens, layers, heads, time."""
    written = open_lake(lake).report(run, output, profile=profile, sequences=sequence or (), theme=theme)
    if as_json:
        return print_json(written.as_dict())
    for shown in written.sequences:
        say(f"sequence {shown.sequence_id}: {shown.why}")
    return print(written.file)


def dashboard(
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    allow_host: AllowHost = None,
    lake: LakePath = HERE,
) -> None:
    """Look through the lake in a browser: runs, charts, sequences, two runs side by side, SQL. Ctrl-C ends it."""
    shown = partial(print, flush=True)
    open_lake(lake).dashboard(port=port, open_browser=not no_browser, allow_hosts=allow_host or (), say=shown)
