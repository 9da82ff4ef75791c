"""`lake sae run`: from a corpus to features, for a terminal."""

from typing import Annotated

import typer

from ...lake.errors import UsageError
from ...lake.values import Json
from ..terminal import HERE, AsJson, LakePath, print_json, say
from ..toolkit.interrupt import Interrupt
from ..toolkit.verify_option import reading
from .lists import items, layer_numbers, numbers, remark


@reading
def run_saes(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Corpus as in `lake collect --corpus`; with --train-only a run.")
    ],
    model: Annotated[str, typer.Option(help="Model that reads it.")] = "tinymath",
    site: Annotated[str, typer.Option(help="Site that is kept and trained on.")] = "resid_post",
    layers: Annotated[str | None, typer.Option(help="Blocks, e.g. 0-5 or 3,-1; all if not given.")] = None,
    arch: Annotated[str, typer.Option(help="Architecture; may be a list.")] = "topk",
    width: Annotated[str, typer.Option(help="Features: 8x the width that is read, or a number; may be a list.")] = "8x",
    k: Annotated[str, typer.Option("--k", help="Active features per token; may be a list.")] = "32",
    tokens: Annotated[int | None, typer.Option(help="Tokens to read, and to train on.")] = None,
    batch_size: Annotated[int, typer.Option(help="Tokens per step of the training.")] = 4096,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the training.")] = None,
    tag: Annotated[str | None, typer.Option(help="Label of both runs.")] = None,
    extract_only: Annotated[bool, typer.Option("--extract-only", help="Only read the corpus.")] = False,
    train_only: Annotated[bool, typer.Option("--train-only", help="SOURCE is a run: train, evaluate, encode.")] = False,
    no_features: Annotated[bool, typer.Option("--no-features", help="Leave out the feature tables.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Read a corpus, train on it, evaluate on its validation documents, and write the features of all of it."""
    from ...analysis.sae.training.options import TrainOptions
    from ...facade import sae_run
    from ...lake import Lake

    if extract_only and train_only:
        raise UsageError("Give one of --extract-only and --train-only.")
    options = TrainOptions(
        site=site, layers=tuple(layer_numbers(layers)), archs=tuple(items(arch)), widths=tuple(items(width)),
        ks=tuple(numbers(k, int, "--k")), batch_size=batch_size, lr=lr, tag=tag,
        tokens=tokens if train_only else None,
    )  # fmt: skip
    opened, run = Lake.create(lake), source
    with Interrupt() as stop:
        if not train_only:
            given: Json = {"model": model, "tokens": tokens, "tag": tag}
            settings = {name: value for name, value in given.items() if value is not None}
            run = sae_run.harvest(opened, source, options, settings, should_stop=stop).run_id
            say(f"{source} is read: {run}")
        if extract_only:
            return print_json({"run_id": run}) if as_json else print(run)
        done = sae_run.run_saes(opened, run, options, with_features=not no_features, should_stop=stop, on_step=say)
    if as_json:
        return print_json(done.as_dict())
    for one in done.evaluated:
        loss = one.metrics["ce_increase_nats"]
        print(f"{one.sae_id}  FVU {one.metrics['fvu']:.4f}  " + ("" if loss is None else f"CE {loss:+.4f} nats"))
        if words := remark(one.metrics["fvu"]):
            say(f"note: {one.sae_id}{words}")
    return None
