"""The verbs about layers and single neurons: `lake experiment ablation`, and those of `lake analyze`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import HERE, AnyRun, AsJson, LakePath, open_lake
from ..toolkit.either_run import either_run
from ..toolkit.verify_option import reading
from .read_again import Device, Model, progress, report

if TYPE_CHECKING:
    from ...facade.neuron_analyses import NeuronAnswer

Neurons = Annotated[
    str,
    typer.Option(metavar="N|FILE", help="How many of each layer, largest effects first; or LAYER,NEURON lines."),
]
TopK = Annotated[int, typer.Option(help="Effects that a component is fitted on: those farthest from their mean.")]
Scores = Annotated[str | None, typer.Option(help="Analysis of `lake experiment second-order`; else the newest.")]
Direction = Annotated[
    str | None, typer.Option(help="Where the direction of these scores lies now, if it is a file that was moved.")
]


@reading
@either_run
def ablation(
    run: AnyRun = "latest",
    sites: Annotated[str, typer.Option(help="Sites to take away, one at a time, with commas.")] = "attn_out,mlp_out",
    action: Annotated[str, typer.Option(help="zero, mean (of the train split), or both with a comma.")] = "zero",
    layers: Annotated[str, typer.Option(help="all, or e.g. 0,3,-1 or 2-5.")] = "all",
    scope: Annotated[str, typer.Option(help="Positions: all, prompt, generated or last.")] = "all",
    means_from: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run whose split `train` gives the means; this one if not given.")
    ] = None,
    oracle: Annotated[
        str | None, typer.Option(help="Which reference solution the loss is of; the first one if not given.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N problems.")] = None,
    model: Model = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """What the model loses without each layer's attention or MLP: loss on reference solutions, greedy accuracy."""
    result = open_lake(lake).ablate(
        run, sites=_parts(sites), actions=_parts(action), layers=layers, scope=scope, means_from=means_from,
        oracle=oracle, limit=limit, model=model, device=device, on_progress=progress("problems"),
    )  # fmt: skip
    words = f"ablation: {result.layers.n_rows.get('layer_ablations', 0):,} conditions"
    notices = [*result.problems.notices, *result.layers.notices]
    report(result.problems.computed, words, notices, result.as_dict(), as_json)


def _verb(name: str, about: str) -> Callable[..., None]:
    def verb(
        run: AnyRun = "latest",
        neurons: Neurons = "64",
        top_k: TopK = 100,
        scores: Scores = None,
        direction: Direction = None,
        model: Model = None,
        device: Device = "cpu",
        as_json: AsJson = False,
        lake: LakePath = HERE,
    ) -> None:
        opened = open_lake(lake)
        ask = {"neuron_pca": opened.neuron_pca, "neuron_ablation": opened.neuron_ablation}[name]
        found = ask(
            run, neurons=neurons, top_k=top_k, scores=scores, direction=direction, model=model, device=device,
            on_progress=progress("sequences"),
        )  # fmt: skip
        _tell(name.replace("_", "-"), found, as_json)

    verb.__name__, verb.__doc__ = name, about
    return verb


neuron_pca = _verb(
    "neuron_pca", "The first principal component of chosen neurons' second-order effects, fitted on the train split."
)
neuron_ablation = _verb(
    "neuron_ablation",
    "What it costs to take chosen neurons away, in the final states and in the model, and whether it was predicted.",
)


def neuron_words(
    run: AnyRun = "latest",
    neurons: Neurons = "64",
    lexicon: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Words, one per line, instead of the model's tokens.")
    ] = None,
    atoms: Annotated[int, typer.Option(help="Most words of each neuron.")] = 16,
    top_k: TopK = 100,
    scores: Scores = None,
    direction: Direction = None,
    model: Model = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """What chosen neurons write, in words: each component as a sparse sum of tokens or of a lexicon's words."""
    found = open_lake(lake).neuron_words(
        run, neurons=neurons, lexicon=lexicon, atoms=atoms, top_k=top_k, scores=scores, direction=direction,
        model=model, device=device, on_progress=progress("sequences"),
    )  # fmt: skip
    _tell("neuron-words", found, as_json)


def direction_tokens(
    run: AnyRun = "latest",
    top: Annotated[int, typer.Option(help="Tokens of each sign.")] = 20,
    model: Model = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """The tokens that each stored direction points to, and from, through the unembedding."""
    found = open_lake(lake).direction_tokens(run, top=top, model=model, device=device)
    report(found.computed, f"direction-tokens: {found.n_directions:,} directions", found.notices, vars(found), as_json)


ANALYSES: tuple[Callable[..., None], ...] = (direction_tokens, neuron_pca, neuron_words, neuron_ablation)
"""The verbs of `lake analyze`."""


def _tell(name: str, found: "NeuronAnswer", as_json: bool) -> None:
    rows = ", ".join(f"{n:,} {table}" for table, n in found.n_rows.items() if table != "analyses")
    report(found.computed, f"{name}: {rows}", found.notices, found.as_dict(), as_json)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
