"""The verbs that look after a lake: `lake verify`, `rm`, `vacuum`."""

from typing import Annotated

import typer

from .terminal import HERE, AsJson, LakePath, RunName, open_lake, print_json


def verify(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only this run.")] = None,
    level: Annotated[str, typer.Option(help="quick (sizes), full (checksums) or deep (every value).")] = "full",
    deep: Annotated[bool, typer.Option("--deep", help="The same as --level deep.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Check that the files on disk are what the commit records say."""
    from ..queries.description import verify_text

    opened = open_lake(lake)
    report = opened.verify(
        level="deep" if deep else level, run=None if run is None else opened.resolve_run(run)
    ).as_dict()
    print_json(report) if as_json else print(verify_text(report))
    if report["problems"]:
        raise typer.Exit(6)


def rm(
    run: RunName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without it only says what would happen.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Delete the bytes at once, not to the trash.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Remove a run: it leaves all views at once; `lake vacuum` frees its bytes later."""
    opened = open_lake(lake)
    result = opened.remove(opened.resolve_run(run), dry_run=not yes, now=now).as_dict()
    if as_json:
        return print_json(result)
    verb = "removed" if yes else "would remove (add --yes)"
    return print(f"{verb} {result['run_id']}: {result['files']:,} files, {result['bytes']:,} bytes")


def vacuum(
    older_than: Annotated[int, typer.Option(metavar="DAYS", help="Only what was removed this many days ago.")] = 7,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without it only says what would happen.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Delete what removed runs and dead collectors left behind."""
    result = open_lake(lake).vacuum(older_than_days=older_than, dry_run=not yes).as_dict()
    if as_json:
        return print_json(result)
    verb = "deleted" if yes else "would delete (add --yes)"
    return print(f"{verb} {result['files']:,} files, {result['bytes']:,} bytes")
