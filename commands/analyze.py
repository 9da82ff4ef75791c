"""`lake analyze`: the verbs, for a terminal. Heavy things are imported inside the functions."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .labelling import grade, labels
from .reading import reading
from .terminal import HERE, AnyRun, AsJson, LakePath, print_json, say

app = typer.Typer(
    help="Compute from stored runs into derived tables; the same question is looked up, not computed again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.command("grade")(reading(grade))
app.command("labels")(labels)

Embedder = Annotated[str | None, typer.Option(help="Embedder of the path; the one that is stored if there is one.")]
Scope = Annotated[str | None, typer.Option(help="Text of the path: completion, prompt+completion or window:N.")]
Site = Annotated[str | None, typer.Option(help="Take states of this site as the path, e.g. resid_post.")]
Layer = Annotated[int | None, typer.Option(help="Layer of those states; the last stored one if not given.")]
Sequences = Annotated[list[int] | None, typer.Option("--sequence", help="Only this sequence_id; may repeat.")]
IncludePrompt = Annotated[bool, typer.Option("--include-prompt", help="Let a path of states begin in the prompt.")]
Force = Annotated[bool, typer.Option("--force", help="Compute again what is stored.")]


@app.command()
@reading
def trajectory(
    run: AnyRun = "latest",
    embedder: Embedder = None,
    scope: Scope = None,
    site: Site = None,
    layer: Layer = None,
    sequence: Sequences = None,
    include_prompt: IncludePrompt = False,
    umap: Annotated[
        str, typer.Option(help="Pictures: sequence, shared, both or none; auto makes both for 200 sequences at most.")
    ] = "auto",
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw every sequence into this folder, with an index as CSV.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """The path of each text through meaning: velocity, curvature, cosines, length, half-life, UMAP."""
    from ..analysis.question import ask
    from ..analysis.trajectory import Trajectory
    from ..lake import Lake

    opened = Lake.open(lake)
    chosen = tuple(sequence) if sequence else None
    if figures is not None and umap == "auto":
        umap = "both"
    paths = (embedder, scope, site, layer, include_prompt, chosen)
    found = ask(opened, run, Trajectory(*paths, umap=umap), force=force)
    results = [found]
    drawn: dict[str, Any] | None = None
    if figures is not None:
        from ..analysis.topology import Topology

        shapes = ask(opened, run, Topology(*paths, null_paths=0), force=force)
        results.append(shapes)
        from ..queries.figures import write_figures

        drawn = write_figures(lake, found.run_id, found.analysis_id, shapes.analysis_id, figures)
    _report(results, as_json, drawn)


@app.command()
@reading
def topology(
    run: AnyRun = "latest",
    embedder: Embedder = None,
    scope: Scope = None,
    site: Site = None,
    layer: Layer = None,
    sequence: Sequences = None,
    include_prompt: IncludePrompt = False,
    min_persistence: Annotated[
        float, typer.Option(help="Persistence from which a loop counts, over the path's longest vector.")
    ] = 0.02,
    null: Annotated[int, typer.Option(help="Paths of the null (the same steps in random order) per sequence.")] = 39,
    max_points: Annotated[int, typer.Option(help="Longer paths are represented by this many landmarks.")] = 300,
    force: Force = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Persistent homology of each path: components, loops, and the loops that chance would give."""
    from ..analysis.question import ask
    from ..analysis.topology import Topology
    from ..lake import Lake

    chosen = tuple(sequence) if sequence else None
    question = Topology(embedder, scope, site, layer, include_prompt, chosen, min_persistence, null, max_points)
    _report([ask(Lake.open(lake), run, question, force=force)], as_json)


@app.command()
@reading
def compare(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The first run.")],
    other: Annotated[str | None, typer.Argument(metavar="[OTHER]", help="The second run.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Compare two groups of one run instead, by this column of `sequences`.")
    ] = None,
    value: Annotated[
        list[str] | None, typer.Option(help="The two values of that column; the most frequent two if not given.")
    ] = None,
    embedder: Embedder = None,
    scope: Scope = None,
    site: Site = None,
    layer: Layer = None,
    permutations: Annotated[int, typer.Option(help="Permutations of the labels.")] = 1999,
    min_persistence: Annotated[
        float, typer.Option(help="Persistence from which a loop counts, over the path's longest vector.")
    ] = 0.02,
    force: Force = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """How two runs, or two groups of one run, differ: fingerprints, tests grouped by prompt, correlations."""
    from ..analysis.comparison import Comparison
    from ..analysis.question import ask
    from ..lake import Lake

    pair: Any = tuple(value) if value else None
    question = Comparison(embedder, scope, site, layer, by, pair, permutations, min_persistence)
    _report([ask(Lake.open(lake), [run] if other is None else [run, other], question, force=force)], as_json)


@app.command("list")
def list_analyses(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only of this run.")] = None,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """What was computed and is stored, oldest first within each run."""
    from ..lake import Lake

    found = Lake.open(lake).analyses(run)
    if as_json:
        return print_json([analysis.as_dict() for analysis in found])
    for analysis in found:
        given = ", ".join(f"{k} {v}" for k, v in analysis.parameters.items() if v not in (None, False))
        n_rows = sum(analysis.n_rows.values())
        print(f"{analysis.analysis_id}  {analysis.run_id}  {analysis.time}  {n_rows:,} rows  {given}")
    return None


@app.command("rm")
def remove(
    analysis_id: Annotated[str, typer.Argument(metavar="ANALYSIS", help="Id of the analysis.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without it only says what would happen.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Delete the bytes at once, not with the next vacuum.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Remove an analysis: its rows leave all tables at once; `lake vacuum` frees the bytes."""
    from ..lake import Lake
    from ..lake.analyses import remove_analysis

    result = remove_analysis(Lake.open(lake), analysis_id, dry_run=not yes, now=now).as_dict()
    if as_json:
        return print_json(result)
    verb = "removed" if yes else "would remove (add --yes)"
    return print(f"{verb} {result['analysis_id']}: {result['files']:,} files, {result['bytes']:,} bytes")


def _report(results: list[Any], as_json: bool, drawn: dict[str, Any] | None = None) -> None:
    for result in results:
        how = "computed" if result.computed else "found"
        rows = ", ".join(f"{n:,} {table}" for table, n in result.n_rows.items())
        say(f"{result.name} {how} in {result.seconds:.1f} s: {rows}")
        for notice in result.notices:
            say(f"  note: {notice}")
    if as_json:
        facts = results[0].as_dict() if len(results) == 1 else {"analyses": [r.as_dict() for r in results]}
        print_json(facts | ({"figures": drawn} if drawn else {}))
        return
    for result in results:
        print(result.analysis_id)
    if drawn:
        print(drawn["index"])
