"""What the shell offers after Tab: runs, tags and models of the lake, saved queries, themes. Mistakes offer nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import typer

from ...lake.errors import LakeError


def runs(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Run ids and tags of the lake that the line names, newest first, with what they are."""
    from ...lake.lake import Lake

    yield from _beginning({"latest": "the newest run"}, incomplete)
    try:
        rows = Lake.open(_lake(ctx)).runs()
    except LakeError:
        return
    named: dict[str, str] = {}
    for row in reversed(rows):
        about = f"{row['status']}, {row['model']}, {row['created_at']:%Y-%m-%d %H:%M}"
        named[row["run_id"]] = about
        if row["tag"]:
            named.setdefault(row["tag"], f"tag of {row['run_id']}")
    yield from _beginning(named, incomplete)


def models(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """The bundled model, and those of the runs in the lake, newest first."""
    from ...lake.lake import Lake

    yield from _beginning({"tinymath": "the bundled model"}, incomplete)
    try:
        rows = Lake.open(_lake(ctx)).runs()
    except LakeError:
        return
    named: dict[str, str] = {}
    for row in reversed(rows):
        if row["model"] and row["kind"] != "import" and row["model"] != "tinymath":
            named.setdefault(row["model"], f"of {row['run_id']}")
    yield from _beginning(named, incomplete)


def queries(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Saved queries, with the question that each answers."""
    from ...lake.lake import Lake
    from ...queries.saved_query import saved_queries

    queries = saved_queries(Lake(_lake(ctx)), on_broken=lambda error: None)
    yield from _beginning({name: query.summary for name, query in queries.items()}, incomplete)


def charts(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Saved queries that draw themselves."""
    from ...lake.lake import Lake
    from ...queries.saved_query import saved_queries

    queries = saved_queries(Lake(_lake(ctx)), on_broken=lambda error: None)
    yield from _beginning({name: query.summary for name, query in queries.items() if query.has_chart}, incomplete)


def themes(incomplete: str) -> Iterator[tuple[str, str]]:
    """Looks of charts and pages."""
    yield from _beginning({"light": "", "dark": ""}, incomplete)


def _lake(ctx: typer.Context) -> Path:
    given = ctx.params.get("lake")
    return Path(given or os.environ.get("TRACELAKE_LAKE", "lakehouse"))


def _beginning(named: dict[str, str], incomplete: str) -> Iterator[tuple[str, str]]:
    yield from ((name, about) for name, about in named.items() if name.startswith(incomplete))
