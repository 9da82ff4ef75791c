"""`lake experiment NAME --config FILE`: the steps of an experiment for a terminal, with Ctrl-C as a wish to stop."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..lake.values import Json
from .analyses import neuron_verbs, read_again
from .terminal import HERE, AsJson, LakePath, print_json, say
from .toolkit.completion import models, runs
from .toolkit.whole_summaries import WholeSummaries

if TYPE_CHECKING:
    from ..facade.experiments.experiment_lake import Experiment
    from ..facade.experiments.session import Cost

app = typer.Typer(
    help="Experiments: steps of a configuration file, or the model over a run's stored sequences again; resumable.",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=WholeSummaries,
)

SAMPLING = {
    "variance": "How far samples spread by temperature, layer and length of the answer (step 2).",
    "oracle": "How far answers are from an oracle's, free and forced to begin with it (steps 3 and 4).",
    "sensitivity": "How far one other token moves the rest of a greedy answer (step 5).",
    "attribution": "Which parts of the model choose at the most sensitive points (step 6).",
    "clusters": "Kinds of right solutions, and whether a judge calls them distinct (step 7).",
    "steering": "Answers with a direction added, beside random directions of equal length (step 8).",
    "all": "All steps of the sampling experiment, 2 to 8, that the configuration does not switch off.",
}
"""Names of the experiment's verbs, and their help."""
CORRECTNESS = {
    "correctness": "Right and wrong answers, directions, layers and neurons that matter, in seven steps.",
}
Config = Annotated[Path, typer.Option(metavar="FILE", help="YAML file of settings: docs/experiments.md.")]
Steps = Annotated[str | None, typer.Option(metavar="N,N", help="Only these steps, by number.")]
DryRun = Annotated[
    bool,
    typer.Option(help="Print tokens, bytes, branches, measured minutes, requests and their worst cost."),
]
Trial = Annotated[
    bool, typer.Option("--try", help="A small trial first: one problem, one sample, ten tokens, no judge.")
]
Runs = Annotated[
    list[str] | None,
    typer.Option("--run", help="Use this stored run instead of a new one; may repeat.", autocompletion=runs),
]
Model = Annotated[str | None, typer.Option(help="Model instead of the file's.", autocompletion=models)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps instead of the file's.")]
Dataset = Annotated[str | None, typer.Option(metavar="NAME:SPLIT", help="Problem set instead of the file's.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N problems.")]


def _verb(name: str, about: str) -> Callable[..., None]:
    def verb(
        config: Config,
        steps: Steps = None,
        dry_run: DryRun = False,
        trial: Trial = False,
        run: Runs = None,
        model: Model = None,
        device: Device = None,
        dataset: Dataset = None,
        limit: Limit = None,
        as_json: AsJson = False,
        lake: LakePath = HERE,
    ) -> None:
        given = {
            "model.model_name_or_path": model, "model.device": device, "dataset": dataset, "dataset_limit": limit,
        }  # fmt: skip
        changes = {key: value for key, value in given.items() if value is not None}
        call = {"steps": steps, "runs": run or (), "trial": trial, "changes": changes}
        done = _planned(name, config, lake, call) if dry_run else _run(name, config, lake, call)
        print_json(done.as_dict()) if as_json else _print(done)

    verb.__doc__ = about
    return verb


def _run(name: str, config: Path, lake: Path, call: Json) -> "Experiment":
    from ..collect.running.progress import Callbacks
    from ..facade.open_lake import OpenLake
    from .toolkit.interrupt import Interrupt
    from .toolkit.progress import ProgressBar

    said: set[str] = set()

    def notice(text: str) -> None:
        if text not in said:  # every run says the same
            said.add(text)
            say(f"  note: {text}")

    opened = OpenLake.create(lake)
    with Interrupt() as stop, ProgressBar() as bar:
        return opened.experiment(name, config, callbacks=Callbacks(bar.update, notice, stop), told=say, **call)


def _planned(name: str, config: Path, lake: Path, call: Json) -> "Experiment":
    """What the steps will take; without a lake, as in an empty one that is thrown away."""
    from tempfile import TemporaryDirectory

    from ..facade.open_lake import OpenLake

    if lake.exists():
        return OpenLake.open(lake).experiment(name, config, dry_run=True, told=say, **call)
    with TemporaryDirectory() as folder:
        return OpenLake.create(Path(folder) / "lake").experiment(name, config, dry_run=True, told=say, **call)


def _print(done: "Experiment") -> None:
    if done.costs:
        print(_costs_text(done.costs))
    for step in done.steps:
        ids = [one for named in step.analyses.values() for one in named]
        print(f"{step.step} {step.name} {step.status} {' '.join(ids)}".rstrip())


def _costs_text(costs: "tuple[Cost, ...]") -> str:
    titles = f"{'sequences':>12}{'tokens':>14}{'bytes':>16}{'branches':>10}{'requests':>10}  worst USD"
    lines = [f"{'step':<5}{'part':<34}{titles}"]
    for one in costs:
        if one.stored:
            lines.append(f"{one.step:<5}{one.part[:33]:<34}{'in the lake':>12}")
            continue
        usd = "" if not one.n_calls else "not limited" if one.worst_usd is None else f"{one.worst_usd:.2f}"
        bound = "" if one.exact else "<="
        lines.append(
            f"{one.step:<5}{one.part[:33]:<34}{one.n_sequences:>12,}{bound + format(one.n_tokens, ','):>14}"
            f"{bound + format(one.n_bytes, ','):>16}{one.n_branches or '':>10}{one.n_calls or '':>10}  {usd}".rstrip()
        )
    lines += [f"{one.part}: about {one.minutes:.1f} minutes" for one in costs if one.minutes is not None]
    n_bytes, usd = sum(one.n_bytes for one in costs), sum(one.worst_usd or 0 for one in costs)
    return "\n".join([*lines, f"in all at most {n_bytes:,} bytes and {usd:.2f} USD"])


app.command("second-order")(read_again.second_order)
app.command()(read_again.neurons)
for _name, _about in (SAMPLING | CORRECTNESS).items():
    app.command(_name)(_verb(_name, _about))
app.command()(neuron_verbs.ablation)
