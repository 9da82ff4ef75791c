"""`lake import` and `lake export` for a terminal: parse, call one library function, print."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal import HERE, AnyRun, AsJson, LakePath, print_json, say

Tag = Annotated[str | None, typer.Option(help="Label of the run; begins its id.")]
Again = Annotated[bool, typer.Option("--again", help="Import records that the lake holds already once more.")]
NewOnly = Annotated[bool, typer.Option("--new-only", help="Leave out records that the lake holds already.")]

import_app = typer.Typer(no_args_is_help=True, help="Read other programs' records into the lake.")
export_app = typer.Typer(no_args_is_help=True, help="Write rows of the lake for other programs.")


@import_app.command("corevital")
def import_corevital(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT.json...", help="JSON reports, version 0.2 to 0.5.")],
    tag: Tag = None,
    first_layer: Annotated[
        str, typer.Option(help="What the first entry of a step's layers is: auto, embeddings or block.")
    ] = "auto",
    again: Again = False,
    new_only: NewOnly = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Import JSON reports of the CoreVital monitor: one run per model, one sequence per report."""
    from ..lake.errors import UsageError, did_you_mean
    from ..lake.exchange.corevital import ImportSettings, check_reports, import_reports
    from ..lake.lake import Lake

    if first_layer not in ("auto", "embeddings", "block"):
        raise UsageError(f"--first-layer {first_layer!r}.{did_you_mean(first_layer, ('auto', 'embeddings', 'block'))}")
    settings = ImportSettings(tag, first_layer, again, new_only)
    checked = check_reports(reports, settings, on_progress=_progress())
    _print_runs(import_reports(Lake.create(lake), checked, settings, on_progress=_progress()), as_json)


@import_app.command("tsif")
def import_tsif(
    records: Annotated[list[Path], typer.Argument(metavar="RECORDS.jsonl...", help="Files of phase5_step records.")],
    tag: Tag = None,
    again: Again = False,
    new_only: NewOnly = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Import step records of token-step fingerprinting: one run per source run, one sequence per prompt."""
    from ..lake.exchange.tsif import TsifSettings, check_records, import_records
    from ..lake.lake import Lake

    settings = TsifSettings(tag, again, new_only)
    checked = check_records(records, settings)
    _print_runs(import_records(Lake.create(lake), checked, settings), as_json)


@export_app.command("steps-jsonl")
def export_steps(
    run: AnyRun = "latest",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file, replacing it whole.")
    ] = None,
    embedder: Annotated[str | None, typer.Option(help="Whose step embeddings the cosines are of.")] = None,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Write one JSON line per generated token, in the layout of token-step fingerprinting (cosines, growing text)."""
    from ..lake.exchange.output import replaced
    from ..lake.exchange.steps_jsonl import step_lines
    from ..lake.lake import Lake

    opened = Lake.open(lake)
    lines = step_lines(opened, opened.resolve_run(run), embedder=embedder)
    if output is None:
        for line in lines:
            sys.stdout.write(line)
        return
    count = 0
    with replaced(output) as file:
        for line in lines:
            file.write(line.encode())
            count += 1
    print_json({"file": str(output), "records": count}) if as_json else print(output)


@export_app.command("vectors")
def export_activations(
    layer: Annotated[int, typer.Option(help="Layer; negative counts from the last.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Write to this file, replacing it whole.")],
    run: AnyRun = "latest",
    site: Annotated[str, typer.Option(help="Site, in TransformerLens words.")] = "resid_post",
    form: Annotated[
        str | None, typer.Option("--format", "-f", help="npy, safetensors or parquet; by default the file's ending.")
    ] = None,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Write the activations of one layer and site as one matrix; FILE.keys.parquet says which token each row is of."""
    from ..lake.exchange.vector_files import export_vectors
    from ..lake.lake import Lake

    ending = output.suffix.removeprefix(".")
    done = export_vectors(Lake.open(lake), run, layer=layer, site=site, form=form or ending, target=output)
    if as_json:
        print_json(vars(done))
        return
    say(f"{done.rows:,} vectors of {done.dim} x {done.dtype}")
    print(done.file)


def _progress() -> Callable[[str, int, int], None]:
    """A line now and then on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda doing, done, n: None
    return lambda doing, done, n: print(f"\r{doing} {done + 1}/{n}", end="\n" if done + 1 == n else "", file=sys.stderr)


def _print_runs(runs: Any, as_json: bool) -> None:
    if as_json:
        print_json({"runs": [vars(run) for run in runs]})
        return
    for run in runs:
        if run.already:
            say(f"imported already: run {run.run_id} is complete; --again imports it once more")
        say(f"{run.n_sequences:,} sequences, {run.n_tokens:,} tokens of {run.model}")
        print(run.run_id)
    if not runs:
        say("nothing new to import")
