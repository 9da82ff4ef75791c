"""`lake import` and `lake export` for a terminal: parse, call one library function, print."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import HERE, AnyRun, AsJson, LakePath, open_lake, overwrite, print_json, say
from .toolkit.either_run import either_run
from .toolkit.verify_option import reading
from .toolkit.whole_summaries import WholeSummaries

if TYPE_CHECKING:
    from ..lake.exchange.import_run import ImportedRun

Tag = Annotated[str | None, typer.Option(help="Label of the run; begins its id.")]
Again = Annotated[bool, typer.Option("--again", help="Import records that the lake holds already once more.")]
NewOnly = Annotated[bool, typer.Option("--new-only", help="Leave out records that the lake holds already.")]

import_app = typer.Typer(cls=WholeSummaries, no_args_is_help=True, help="Read other programs' records into the lake.")
export_app = typer.Typer(cls=WholeSummaries, no_args_is_help=True, help="Write rows of the lake for other programs.")


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
    from ..lake.exchange.corevital.imports import ImportSettings, check_reports, import_reports
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
    from ..lake.exchange.tsif.imports import TsifSettings, check_records, import_records
    from ..lake.lake import Lake

    settings = TsifSettings(tag, again, new_only)
    checked = check_records(records, settings)
    _print_runs(import_records(Lake.create(lake), checked, settings), as_json)


@import_app.command("logprobs")
def import_logprobs(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Responses: JSON, a list, or JSON lines.")],
    requests: Annotated[
        Path | None, typer.Option(help="Batch file with the requests (`custom_id`, `body`): prompts and settings.")
    ] = None,
    distribution: Annotated[
        str,
        typer.Option(
            metavar="raw|sampling",
            help="What the log-probabilities are of: the model's own distribution (vLLM and llama.cpp as they come), "
            "or that after temperature and cuts.",
        ),
    ] = "raw",
    tag: Tag = None,
    again: Again = False,
    new_only: NewOnly = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Import responses with logprobs of OpenAI-compatible interfaces: one run per file and model.

    Also lines of batch output, and of {"request": ..., "response": ...}. Example:
    lake import logprobs batch_output.jsonl --requests batch_input.jsonl
    """
    from ..lake.exchange.interfaces.imports import ImportChoices, Responses, check_logs, import_logs, is_processed
    from ..lake.lake import Lake

    choices, read = ImportChoices(tag, again, new_only), Responses(requests, processed=is_processed(distribution))
    checked = check_logs(files, read, choices)
    if read.failed:
        say(f"left out: {len(read.failed):,} requests without a response, the first in {min(read.failed)}")
    _print_runs(import_logs(Lake.create(lake), checked, read, choices), as_json)


@import_app.command("inspect")
def import_inspect(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="Inspect AI logs: .eval or .json.")],
    tag: Tag = None,
    again: Again = False,
    new_only: NewOnly = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Import logs of Inspect AI: samples, scores as grades, log-probabilities where logged (extra `inspect`)."""
    from ..lake.exchange.interfaces.imports import ImportChoices, check_logs, import_logs
    from ..lake.exchange.interfaces.inspect_log import FORMAT, read_log
    from ..lake.lake import Lake

    choices = ImportChoices(tag, again, new_only)
    checked = check_logs(logs, read_log, choices, FORMAT)
    _print_runs(import_logs(Lake.create(lake), checked, read_log, choices, FORMAT), as_json)


@import_app.command("labels")
@either_run
def import_own_labels(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, TSV, JSONL, JSON or Parquet.")],
    run: Annotated[str, typer.Option("--run", help="Run id, unique prefix, tag, or `latest`.")] = "latest",
    name: Annotated[
        str | None, typer.Option(help="Name of this set of verdicts; the file's if not given. The same name replaces.")
    ] = None,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Import verdicts of your own as the table `labels`: `correct` by `item_id` or `sequence_id`, and a `reason`."""
    done = open_lake(lake).import_labels(file, run, name=name)
    for notice in done.notices:
        say(notice)
    say(f"{done.n_labels:,} verdicts, {done.n_correct:,} of them right, for run {done.run_id}")
    print_json(done.as_dict()) if as_json else print(done.analysis_id)


@export_app.command("steps-jsonl")
@reading
@either_run
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
    opened = open_lake(lake)
    if output is None:
        from ..lake.exchange.tsif.export import step_lines

        for line in step_lines(opened, opened.resolve_run(run), embedder=embedder):
            sys.stdout.write(line)
        return
    count = opened.export_steps(output, run, embedder=embedder)
    print_json({"file": str(output), "records": count}) if as_json else print(output)


@export_app.command("correctness")
@reading
@either_run
def export_correctness_files(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run id, unique prefix, tag, or `latest`.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into; files of the same names go.")],
    max_length: Annotated[int, typer.Option(help="Tokens that prompts are padded to.")] = 256,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Divide each state of a prompt by its length.")
    ] = True,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Write a graded run as the arrays of the second-order project: states, labels, direction, tokens, metadata."""
    from ..lake.exchange.correctness_files import export_correctness
    from ..lake.lake import Lake

    done = export_correctness(Lake.open(lake), run, folder, max_length=max_length, normalize=normalize)
    say(f"{done.n_examples:,} examples, {done.n_correct:,} of them right")
    print_json(vars(done)) if as_json else print(folder / done.prefix)


@export_app.command("saelens-cache")
@reading
@either_run
def export_saelens_cache(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run id, unique prefix, tag, or `latest`.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    layer: Annotated[int, typer.Option(help="Layer; negative counts from the last.")],
    site: Annotated[str, typer.Option(help="Site, in TransformerLens words.")] = "resid_post",
    context: Annotated[
        int | None, typer.Option(help="Tokens of a context; if all sequences have one length, that.")
    ] = None,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Write the activations of one layer and site as the activation cache that SAELens trains from."""
    from ..lake.exchange.saelens.cache import export_cache
    from ..lake.lake import Lake

    done = export_cache(Lake.open(lake), run, folder, layer=layer, site=site, context=context)
    left = f", {done.n_left_out:,} sequences left out" if done.n_left_out else ""
    say(f"{done.n_contexts:,} contexts of {done.context_size} tokens, {done.hook_name} [{done.d_in}]{left}")
    print_json(vars(done)) if as_json else print(done.folder)


@export_app.command("vectors")
@reading
@either_run
def export_activations(
    layer: Annotated[int, typer.Option(help="Layer; negative counts from the last.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Write to this file, replacing it whole.")],
    run: AnyRun = "latest",
    site: Annotated[str, typer.Option(help="Site, in TransformerLens words.")] = "resid_post",
    form: Annotated[
        str | None, typer.Option("--format", "-f", help="npy, safetensors or parquet; by default the file's ending.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Only these tokens: SQL over token_steps and sequences, such as 'last and correct'."),
    ] = None,
    join: Annotated[
        list[str] | None, typer.Option(help="Column of token_steps or sequences to write beside the keys; may repeat.")
    ] = None,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Write the activations of one layer and site as one matrix; FILE.keys.parquet says which token each row is of.

    Example: lake export vectors --layer -1 --where "last" --join correct -o last.npy
    """
    done = open_lake(lake).export_vectors(output, layer, site, run, form=form, where=where, join=join or ())
    if as_json:
        print_json(vars(done))
        return
    say(f"{done.rows:,} vectors of {done.dim} x {done.dtype}")
    print(done.file)


def _progress() -> Callable[[str, int, int], None]:
    """A line now and then on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda doing, done, n: None
    return lambda doing, done, n: overwrite(f"{doing} {done + 1}/{n}", last=done + 1 == n)


def _print_runs(runs: "Iterable[ImportedRun]", as_json: bool) -> None:
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
