"""`lake experiment`: what runs a model over a run's sequences to find out how it works, for a terminal."""

from typing import Annotated, Any

import typer

from .readout import Device, Model, loader, progress
from .terminal import HERE, AnyRun, AsJson, LakePath, print_json, say
from .toolkit.either_run import either_run
from .toolkit.verify_option import reading

app = typer.Typer(
    help="Run the model over a run's stored sequences to see which of its parts matter; resumable.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("second-order")
@reading
@either_run
def second_order(
    run: AnyRun = "latest",
    direction: Annotated[
        str,
        typer.Option(help="A .npy file with one vector of final-normed space, or the id of a stored one."),
    ] = "",
    at: Annotated[str, typer.Option(help="Where the final state is looked at: prompt or answer, their last token.")] = (
        "prompt"
    ),
    scaling: Annotated[str, typer.Option(help="plain, or state: divided by the length of the final state.")] = "plain",
    by: Annotated[list[str] | None, typer.Option(help="Also keep the effects by head or by token; may repeat.")] = None,
    top: Annotated[int, typer.Option(help="With --by head: how many neurons of each layer.")] = 256,
    model: Model = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """What every neuron of every layer adds to a direction through the attention heads of later layers."""
    from ..analysis.neurons.effects import NeuronEffects
    from ..analysis.question import ask
    from ..collect.directions import find_direction
    from ..collect.second_order import SecondOrderOptions
    from ..collect.second_order import second_order as compute
    from ..lake import Lake

    opened = Lake.open(lake)
    kinds = _kinds(by)
    options = SecondOrderOptions(at, scaling, by_token="token" in kinds, by_head="head" in kinds, top=top)
    options.check()
    found = find_direction(opened, direction)
    result = compute(
        opened, run, found, options, loader(opened, run, model, device, dtype="float32"),
        on_progress=progress("sequences"),
    )  # fmt: skip
    effects = ask(opened, run, NeuronEffects(scores_id=result.analysis_id))
    say(f"second-order {'computed' if result.computed else 'found'}: {result.n_sequences:,} sequences")
    if result.closing_error is not None:
        say(f"  the closing identity holds within {result.closing_error:.1g}")
    for notice in (*result.notices, *effects.notices):
        say(f"  note: {notice}")
    _print(dict(vars(result)) | {"effects_id": effects.analysis_id}, as_json)


@app.command()
@reading
@either_run
def neurons(
    run: AnyRun = "latest",
    model: Model = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Rank every neuron of every layer by how strongly it acts at the last prompt token."""
    from ..collect.neurons import rank_neurons
    from ..lake import Lake

    opened = Lake.open(lake)
    result = rank_neurons(
        opened, run, loader(opened, run, model, device, dtype="float32"), on_progress=progress("prompts")
    )  # fmt: skip
    say(f"neurons {'computed' if result.computed else 'found'}: {result.n_prompts:,} prompts")
    for notice in result.notices:
        say(f"  note: {notice}")
    _print(dict(vars(result)), as_json)


def _kinds(by: list[str] | None) -> set[str]:
    from ..lake.errors import UsageError

    for kind in by or ():
        if kind not in ("head", "token"):
            raise UsageError(f"--by is head or token, not {kind!r}.")
    return set(by or ())


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        print(facts["analysis_id"])
