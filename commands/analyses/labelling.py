"""`lake analyze grade` and `lake analyze labels`: verdicts on stored completions, given later."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import HERE, AnyRun, AsJson, LakePath, print_json, say

if TYPE_CHECKING:
    from ...collect.labelling import Labelled

HowToGrade = Annotated[str, typer.Option(help="exact, symbolic, contains, choice, regex:PATTERN or auto.")]


def grade(
    run: AnyRun = "latest",
    grader: HowToGrade = "exact",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Grade a run's completions again, into the table `grades`; what the run stored stays as it is."""
    from ...collect.labelling import grade_run
    from ...lake import Lake

    _print(grade_run(Lake.open(lake), run, grader), as_json)


def labels(
    run: AnyRun = "latest",
    labels_from: Annotated[
        str | None, typer.Option(metavar="OTHER", help="Take the verdicts of this run over the same prompts.")
    ] = None,
    grader: Annotated[str | None, typer.Option(help="Judge the run's own completions by this grader.")] = None,
    regenerate: Annotated[
        bool,
        typer.Option("--regenerate", help="Let the run's model answer its prompts again, greedily, and take that."),
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of such an answer.")] = 64,
    model: Annotated[str | None, typer.Option(help="Consent to load this model, the run's own, for that.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Consent to read this dataset, the run's own.")] = None,
    dataset_path: Annotated[str | None, typer.Option(help="Consent to read these files, the run's own.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Consent to read this file of prompts, the run's own.")] = None,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Which prompts of a run are answered right, as the table `labels`: by another run, another grader, or anew."""
    from ...lake import Lake
    from ...lake.errors import UsageError

    if sum((labels_from is not None, grader is not None, regenerate)) != 1:
        raise UsageError("Say where the labels come from: --labels-from OTHER, --grader NAME or --regenerate.")
    from ...collect.labelling import grade_run
    from ...collect.labelling import labels_from as labels_of_run

    opened = Lake.open(lake)
    if grader is not None:
        return _print(grade_run(opened, run, grader, table="labels"), as_json)
    if regenerate:
        typed = {"model": model, "dataset": dataset, "dataset_path": dataset_path, "prompts": prompts}
        given = {name: value for name, value in typed.items() if value is not None}
        labels_from = _answer_again(lake, run, max_new_tokens, given)
    return _print(labels_of_run(opened, run, str(labels_from)), as_json)


def _answer_again(lake: Path, run: str, max_new_tokens: int, typed: dict[str, str]) -> str:
    """A new run over the same prompts that answers them greedily; its id."""
    from ...collect.running.collector import Callbacks, Collection
    from ...collect.running.planning.consent import consented
    from ...lake import Lake

    opened = Lake.open(lake)
    run_id = opened.resolve_run(run)
    config = consented(run_id, opened.run_json(run_id).get("config"), typed)
    changes = {
        "max_new_tokens": max_new_tokens, "keep": ("tokens",), "samples": 1, "temperature": 0.0, "tag": "answers",
        "observe_prompt": True, "stop_when": (),
    }  # fmt: skip
    answers = type(config)(**{**config.model_dump(), **changes})
    return Collection(answers, Callbacks(on_notice=say)).start(opened).run_id


def _print(done: "Labelled", as_json: bool) -> None:
    for notice in done.notices:
        say(notice)
    how = "given" if done.computed else "found"
    rest = done.n_labels - done.n_right - done.n_wrong
    say(f"{done.n_labels:,} verdicts {how}: {done.n_right:,} right, {done.n_wrong:,} wrong, {rest:,} without")
    print_json(done.as_dict()) if as_json else print(done.analysis_id)
