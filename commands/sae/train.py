"""`lake sae`: sparse autoencoders, for a terminal. Heavy things are imported inside the functions."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ...lake.errors import UsageError
from ...lake.values import Json
from ..terminal import HERE, AsJson, LakePath, overwrite, print_json, say
from ..toolkit.completion import runs
from ..toolkit.either_run import either_run
from ..toolkit.interrupt import Interrupt
from ..toolkit.verify_option import reading
from ..toolkit.whole_summaries import WholeSummaries
from . import exchange as sae_exchange
from . import label as sae_label
from . import measures as sae_measures
from . import run as sae_run
from .lists import items, layer_numbers, numbers, remark

if TYPE_CHECKING:
    from ...analysis.sae.training.options import TrainOptions
    from ...analysis.sae.training.plan import TrainingPlan
    from ...lake import Lake

app = typer.Typer(
    help="Sparse autoencoders: train them from stored vectors, evaluate them, look their features up.",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=WholeSummaries,
)

Runs = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN...", help="Runs to train on: id, prefix, tag or `latest`.", autocompletion=runs),
]
Site = Annotated[str, typer.Option(help="Site that is read.")]
Layers = Annotated[str | None, typer.Option(help="Blocks, e.g. 0-5 or 3,-1; all that are stored if not given.")]
Arch = Annotated[
    str, typer.Option(help="relu, threshold-relu, topk, batchtopk, matryoshka, jumprelu, gated; may be a list.")
]
TargetL0 = Annotated[
    float | None, typer.Option("--target-l0", help="jumprelu: active features that the penalty aims at.")
]
Rate = Annotated[float | None, typer.Option(help="Learning rate of Adam; 2e-4 sqrt(16384 / width) if not given.")]
DeadAfter = Annotated[
    int | None, typer.Option(help="Tokens after which a silent feature is dead; 5 %, 50,000 to 10 million.")
]
Revive = Annotated[
    str | None, typer.Option(help="relu: resample makes dead features anew from badly explained tokens.")
]
ValidationRun = Annotated[
    list[str] | None, typer.Option(help="Run to validate on; else the split `validation` of the runs.")
]
Select = Annotated[str | None, typer.Option(help="Number format in which the top k are looked for, e.g. bfloat16.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be trained, and what it takes.")]


@app.command()
@reading
@either_run
def train(
    run: Runs = None,
    site: Site = "resid_post",
    layers: Layers = None,
    arch: Arch = "topk",
    width: Annotated[str, typer.Option(help="Features: 8x the width that is read, or a number; may be a list.")] = "8x",
    k: Annotated[str, typer.Option("--k", help="Active features per token, where the architecture fixes them.")] = "32",
    nested: Annotated[str | None, typer.Option(help="Widths of matryoshka's nested dictionaries.")] = None,
    sparsity: Annotated[str | None, typer.Option(help="Weight of the penalty, of the others; may be a list.")] = None,
    target_l0: TargetL0 = None,
    to_site: Annotated[str | None, typer.Option(help="Transcoder: the site of the same block that is written.")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Transcoder: with a linear path beside the features.")] = False,
    seeds: Annotated[str, typer.Option(help="Seeds of the first weights; may be a list.")] = "0",
    tokens: Annotated[int | None, typer.Option(help="Tokens to train on; one epoch if not given.")] = None,
    batch_size: Annotated[int, typer.Option(help="Tokens per step.")] = 4096,
    lr: Rate = None,
    warmup: Annotated[int | None, typer.Option(help="Steps in which it rises from 0; 5 %, at most 1000.")] = None,
    decay: Annotated[str, typer.Option(help="Then: linear (over the last fifth), cosine or constant.")] = "linear",
    clip: Annotated[float, typer.Option(help="Longest gradient.")] = 1.0,
    sparsity_warmup: Annotated[int | None, typer.Option(help="Steps in which the penalty rises from 0; 10 %.")] = None,
    dead_after: DeadAfter = None,
    revive: Revive = None,
    center: Annotated[str, typer.Option(help="Where b_dec starts: mean or median.")] = "mean",
    scale: Annotated[str, typer.Option(help="norm brings vectors to a mean length of sqrt(d); none.")] = "norm",
    exclude: Annotated[str, typer.Option(help="Tokens left out: first, special or none.")] = "first",
    validation_run: ValidationRun = None,
    shuffle_seed: Annotated[int, typer.Option(help="Seed of the order of tokens.")] = 0,
    window: Annotated[int, typer.Option(help="Tokens that are shuffled together.")] = 131_072,
    commits: Annotated[int, typer.Option(help="Commits of the run: what can be resumed from.")] = 10,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    select: Select = None,
    tag: Annotated[str | None, typer.Option(help="Label of the run.")] = None,
    resume: Annotated[str | None, typer.Option(help="Complete this interrupted training.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Train the product of the lists in one pass; each layer's vectors are read once for all of them."""
    from ...analysis.sae.training.trainer import start_training
    from ...lake import Lake

    opened = Lake.open(lake)
    if bool(run) == (resume is not None):
        raise UsageError("Give the runs to train on, or --resume with an interrupted training.")
    if resume is not None:
        return _resume(opened, resume, as_json)
    options = _options(dict(locals()))
    if dry_run:
        from ...analysis.sae.training.plan import make_plan

        return _say_plan(make_plan(opened, run or [], options), as_json)
    with Interrupt() as stop:
        trained = start_training(opened, run or [], options, should_stop=stop, on_progress=_progress)
    return _report(trained.as_dict(), as_json)


def _resume(lake: "Lake", run: str, as_json: bool) -> None:
    from ...analysis.sae.training.trainer import resume_training

    with Interrupt() as stop:
        done = resume_training(lake, run, should_stop=stop, on_progress=_progress)
    if done is None:
        say(f"{lake.resolve_run(run)} is complete already.")
    _report(done.as_dict() if done else {"run_id": lake.resolve_run(run)}, as_json)


def _options(given: Json) -> "TrainOptions":
    """The options of the library out of those of the command."""
    from ...analysis.sae.training.options import TrainOptions

    if given["scale"] not in ("norm", "none"):
        raise UsageError(f"There is no --scale {given['scale']!r}. Possible: norm, none.")
    same = (
        "site", "to_site", "skip", "target_l0", "tokens", "batch_size", "lr", "warmup", "decay", "clip",
        "sparsity_warmup", "dead_after", "center", "exclude", "shuffle_seed", "window", "commits", "device", "dtype",
        "select", "tag", "revive",
    )  # fmt: skip
    return TrainOptions(
        **{name: given[name] for name in same},
        layers=tuple(layer_numbers(given["layers"])),
        archs=tuple(items(given["arch"])),
        widths=tuple(items(given["width"])),
        ks=tuple(numbers(given["k"], int, "--k")),
        nested=tuple(numbers(given["nested"], int, "--nested")),
        sparsities=tuple(numbers(given["sparsity"], float, "--sparsity")),
        seeds=tuple(numbers(given["seeds"], int, "--seeds")),
        scale=given["scale"] == "norm",
        validation_runs=tuple(given["validation_run"] or ()),
    )


def _progress(step: int, n_steps: int, fvu: float) -> None:
    if sys.stderr.isatty():
        overwrite(f"step {step:,} of {n_steps:,}, best validation FVU {fvu:.4f}", last=step == n_steps)


def _say_plan(plan: "TrainingPlan", as_json: bool) -> None:
    sizes = plan.sizes()
    if as_json:
        return print_json(sizes)
    for name, value in sizes.items():
        print(f"{name:<14}{value:>18,}")
    return None


def _report(facts: Json, as_json: bool) -> None:
    if as_json:
        return print_json(facts)
    for sae_id, fvu in zip(facts.get("sae_ids", ()), facts.get("validation_fvu", ()), strict=True):
        say(f"  {sae_id}  validation FVU {fvu:.4f}{remark(fvu)}")
    return print(facts["run_id"])


@app.command("list")
@reading
def list_saes(as_json: AsJson = False, lake: LakePath = HERE) -> None:
    """The autoencoders of the lake, and trainings that are not done."""
    from ...lake import Lake

    opened = Lake.open(lake)
    rows = opened.scan("saes").collect().sort("run_id", "layer", "sae_id").to_dicts()
    done = {row["run_id"] for row in rows}
    waiting = [
        {"run_id": row["run_id"], "status": row["status"]}
        for row in opened.runs()
        if row["kind"] == "sae" and row["run_id"] not in done and row["status"] != "removed"
    ]
    if as_json:
        return print_json({"saes": rows, "trainings": waiting})
    for row in rows:
        k = "" if row["k"] is None else f" k={row['k']}"
        print(f"{row['sae_id']:<60} {row['arch']}{k} {row['d_in']}->{row['d_sae']}  {row['source']}  {row['run_id']}")
    for row in waiting:
        print(f"{row['run_id']}  {row['status']}: `lake sae train --resume {row['run_id']}`")
    return None


@app.command("rm")
def remove(
    name: Annotated[str, typer.Argument(metavar="SAE|RUN", help="An autoencoder, or the run that made it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without it only says what would happen.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Delete the bytes at once, not to the trash.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Remove the run that trained or imported an autoencoder, with everything in it; features stay with their runs."""
    from ...lake import Lake

    opened = Lake.open(lake)
    rows = opened.scan("saes").collect()
    run_ids = rows.filter(rows["sae_id"].str.starts_with(name))["run_id"].unique().to_list()
    run_id = run_ids[0] if len(run_ids) == 1 else opened.resolve_run(name)
    kind = opened.run_json(run_id).get("kind")
    if run_id not in set(rows["run_id"]) and kind != "sae":
        raise UsageError(f"Run {run_id} is of kind {kind} and holds no autoencoder. `lake rm` removes any run.")
    result = opened.remove(run_id, dry_run=not yes, now=now).as_dict()
    gone = sorted(rows.filter(rows["run_id"] == run_id)["sae_id"])
    if as_json:
        return print_json(result | {"saes": gone})
    for sae_id in gone:
        say(f"  {sae_id}")
    verb = "removed" if yes else "would remove (add --yes)"
    return print(f"{verb} {run_id}: {len(gone)} autoencoders, {result['files']:,} files, {result['bytes']:,} bytes")


app.command("eval")(sae_measures.evaluate)
app.command()(sae_measures.compare)
app.command()(sae_measures.features)
app.command()(sae_label.label)
app.command("import")(either_run(sae_exchange.import_folder))
app.command("export")(either_run(sae_exchange.export_folder))
app.command("run")(sae_run.run_saes)
