"""The verbs that run a run's model over its stored sequences again: two of `lake analyze`, and `lake experiment`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ...lake.values import Json
from ..terminal import HERE, AnyRun, AsJson, LakePath, open_lake, print_json, say
from ..toolkit.either_run import either_run
from ..toolkit.verify_option import reading

Model = Annotated[
    str | None, typer.Option(help="Model or folder to load instead of the name in the run; the weights must be equal.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]
Sequences = Annotated[list[int] | None, typer.Option("--sequence", help="Only this sequence_id; may repeat.")]


@reading
@either_run
def lens(
    run: AnyRun = "latest",
    layer: Annotated[
        list[int] | None, typer.Option(help="Only this layer, -1 the last; may repeat.  [default: all that are kept]")
    ] = None,
    sequence: Sequences = None,
    topk: Annotated[int, typer.Option(help="Best tokens to keep of every prediction.")] = 5,
    model: Model = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """What the state behind each block would predict, read by the model's final norm and unembedding."""
    result = open_lake(lake).lens(
        run, layers=layer, sequences=sequence, topk=topk, model=model, device=device, on_progress=progress("tokens")
    )  # fmt: skip
    report(result.computed, f"lens: {result.n_rows:,} rows", result.notices, dict(vars(result)), as_json)


@reading
@either_run
def attribution(
    run: AnyRun = "latest",
    points: Annotated[
        int, typer.Option(help="How many generated tokens to look at: those whose two best candidates were closest.")
    ] = 200,
    every: Annotated[bool, typer.Option("--all", help="Look at every generated token instead.")] = False,
    sequence: Sequences = None,
    step: Annotated[list[int] | None, typer.Option(help="Only this step of each completion; may repeat.")] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="A,B", help="Compare these two token ids instead of the two best candidates.")
    ] = None,
    by: Annotated[str, typer.Option(help="layer, or head: split every block's attention into its heads.")] = "layer",
    model: Model = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Which parts of the model make it prefer its best token to the second best, at each of some points."""
    kind: Any = by
    result = open_lake(lake).attribution(
        run, points=None if every else points, sequences=sequence, steps=step, tokens=_pair(tokens), by=kind,
        model=model, device=device, on_progress=progress("points"),
    )  # fmt: skip
    report(result.computed, f"attribution: {result.n_rows:,} rows", result.notices, dict(vars(result)), as_json)


@reading
@either_run
def second_order(
    run: AnyRun = "latest",
    direction: Annotated[
        str, typer.Option(help="A .npy file with one vector of final-normed space, or the id of a stored direction.")
    ] = "",
    at: Annotated[
        str, typer.Option(help="Where the final state is looked at: prompt or answer, their last token.")
    ] = "prompt",
    scaling: Annotated[
        str, typer.Option(help="plain; state: over the final state's length; clip: that, with biases spread.")
    ] = "plain",
    by: Annotated[list[str] | None, typer.Option(help="Keep the effects by head or by token too; may repeat.")] = None,
    top: Annotated[int, typer.Option(help="With --by head: how many neurons of each layer.")] = 256,
    vectors: Annotated[
        str | None, typer.Option(metavar="N|FILE", help="Write effect vectors [N, neurons, d] of these too, as .npy.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for these files.")] = Path(),
    model: Model = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """What every neuron of every layer adds to a direction through the attention heads of later layers."""
    opened = open_lake(lake)
    result = opened.second_order(
        direction, run, at=at, scaling=scaling, by=by or (), top=top, model=model, device=device,
        on_progress=progress("sequences"),
    )  # fmt: skip
    notices = [*result.scores.notices, *result.effects.notices]
    if result.scores.closing_error is not None:
        notices.insert(0, f"the closing identity holds within {result.scores.closing_error:.1g}.")
    words = f"second-order: {result.scores.n_sequences:,} sequences"
    facts = result.as_dict()
    if vectors is not None:
        written = opened.effect_vectors(
            output, run, neurons=vectors, scores=result.scores.analysis_id, direction=direction, model=model,
            device=device, on_progress=progress("sequences"),
        )  # fmt: skip
        notices.append(f"{len(written.files)} files in {written.folder}: {written.files[-1]} says what they are.")
        facts["files"] = list(written.files)
    report(result.scores.computed, words, notices, facts, as_json)


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
    result = open_lake(lake).rank_neurons(run, model=model, device=device, on_progress=progress("prompts"))
    report(result.computed, f"neurons: {result.n_prompts:,} prompts", result.notices, dict(vars(result)), as_json)


def _pair(tokens: str | None) -> tuple[int, int] | None:
    from ...lake.errors import UsageError

    if tokens is None:
        return None
    try:
        a, b = (int(text) for text in tokens.split(","))
    except ValueError:
        raise UsageError(f"--tokens takes two token ids with a comma, such as 12,40; not {tokens!r}.") from None
    return a, b


def progress(what: str) -> Callable[[int, int], None]:
    """Says how far a pass is."""
    return lambda done, whole: say(f"  {done:,} of {whole:,} {what}")


def report(computed: bool, words: str, notices: list[str], facts: Json, as_json: bool) -> None:
    """What was computed or found, and its id."""
    say(f"{words} {'computed' if computed else 'found'}")
    for notice in notices:
        say(f"  note: {notice}")
    if as_json:
        print_json(facts)
    else:
        print(facts["analysis_id"])
