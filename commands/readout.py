"""`lake analyze lens` and `lake analyze attribution` for a terminal."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import HERE, AnyRun, AsJson, LakePath, print_json, say
from .toolkit.verify_option import reading

if TYPE_CHECKING:
    from ..collect.models.model import LoadedModel
    from ..lake import Lake

Model = Annotated[
    str | None, typer.Option(help="Model or folder to load instead of the name in the run; the weights must be equal.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]
Sequences = Annotated[list[int] | None, typer.Option("--sequence", help="Only this sequence_id; may repeat.")]


@reading
def lens(
    run: AnyRun = "latest",
    layer: Annotated[
        list[int] | None,
        typer.Option(help="Only this layer, -1 the last; may repeat.  [default: all that are kept]"),
    ] = None,
    sequence: Sequences = None,
    topk: Annotated[int, typer.Option(help="Best tokens to keep of every prediction.")] = 5,
    model: Model = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """What the state behind each block would predict, read by the model's final norm and unembedding."""
    from ..collect.lens import LensOptions, analyze_lens
    from ..lake import Lake

    opened = Lake.open(lake)
    options = LensOptions(tuple(layer) if layer else None, tuple(sequence) if sequence else None, topk)
    result = analyze_lens(
        opened, run, options, loader(opened, run, model, device), on_progress=progress("tokens")
    )  # fmt: skip
    _report(result, "lens", as_json)


@reading
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
    from ..collect.attribution import analyze_attribution
    from ..collect.points import PointOptions
    from ..lake import Lake
    from ..lake.errors import UsageError

    if by not in ("layer", "head"):
        raise UsageError(f"--by is layer or head, not {by!r}.")
    options = PointOptions(
        tuple(sequence) if sequence else None,
        tuple(step) if step else None,
        None if every else points,
        _pair(tokens),
    )
    opened = Lake.open(lake)
    result = analyze_attribution(
        opened, run, options, loader(opened, run, model, device), by_head=by == "head",
        on_progress=progress("points"),
    )  # fmt: skip
    _report(result, "attribution", as_json)


def _pair(tokens: str | None) -> tuple[int, int] | None:
    from ..lake.errors import UsageError

    if tokens is None:
        return None
    try:
        a, b = (int(text) for text in tokens.split(","))
    except ValueError:
        raise UsageError(
            f"--tokens takes two token ids with a comma between them, such as 12,40; not {tokens!r}."
        ) from None
    return a, b


def loader(
    lake: "Lake", run: str, model: str | None, device: str, *, dtype: str | None = None
) -> "Callable[[], LoadedModel]":
    """The run's model, loaded when it is first needed."""

    def load() -> "LoadedModel":
        from ..collect.stored_sequences import load_run_model

        return load_run_model(lake, lake.resolve_run(run), model=model, device=device, dtype=dtype)

    return load


def progress(what: str) -> "Callable[[int, int], None]":
    """Says after every chunk how far it is."""
    return lambda done, whole: say(f"  {done:,} of {whole:,} {what}")


def _report(result: Any, name: str, as_json: bool) -> None:
    say(f"{name} {'computed' if result.computed else 'found'}: {result.n_rows:,} rows")
    for notice in result.notices:
        say(f"  note: {notice}")
    if as_json:
        return print_json(dict(vars(result)))
    return print(result.analysis_id)
