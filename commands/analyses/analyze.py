"""`lake analyze`: a verb per question, made from its fields, and the verbs about stored answers."""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...lake.values import Json
from ..terminal import HERE, AnyRun, AsJson, LakePath, open_lake, print_json, say
from ..toolkit.completion import runs
from ..toolkit.either_run import either_run
from ..toolkit.verify_option import reading
from ..toolkit.whole_summaries import WholeSummaries
from . import embed, judge, neuron_verbs, read_again
from .labelling import grade, labels

if TYPE_CHECKING:
    from ...analysis.option import Option
    from ...analysis.question import Answer

Force = Annotated[bool, typer.Option("--force", help="Compute again what is stored.")]
Figures = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Draw every sequence into this folder, with an index as CSV.")
]
DRAWN = ("trajectory",)
"""Analyses that `--figures` draws."""


class QuestionGroup(WholeSummaries):
    """The verbs of `lake analyze`; those that ask a question are made when they are called or listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The questions, then the other verbs."""
        from ...analysis.question import QUESTIONS

        return [*QUESTIONS, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb called so, if there is one."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        from ...analysis.question import QUESTIONS

        return question_command(cmd_name) if cmd_name in QUESTIONS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that was typed; questions, which are made when they are called, are proposed for a misspelt one."""
        from ...lake.errors import UsageError, did_you_mean

        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            raise UsageError(f"lake analyze has no {args[0]!r}.{did_you_mean(args[0], known, show=len(known))}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    help="Compute from stored runs into derived tables; the same question is looked up, not computed again.",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=QuestionGroup,
)

app.command("grade")(reading(either_run(grade)))
app.command("labels")(either_run(labels))


def question_command(name: str) -> Any:
    """`lake analyze NAME` with all of its options."""
    one = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    one.command(name)(question_verb(name))
    return typer.main.get_command(one)


@cache
def question_verb(name: str) -> Callable[..., None]:
    """A function that asks the question called so, with an option per field of it."""
    from ...analysis.option import options_of
    from ...analysis.question import question_kind

    kind = question_kind(name)
    options = options_of(kind)

    def verb(*, run: Any, force: bool, as_json: bool, lake: Path, figures: Path | None = None, **given: Any) -> None:
        chosen = {option: value for option, value in given.items() if value not in (None, [], ())}
        opened = open_lake(lake)
        if figures is None:
            return _print_answers([opened.analyze(name, run, force=force, **chosen)], as_json)
        drawn = opened.draw_figures(figures, run, force=force, **chosen)
        return _print_answers(drawn.answers, as_json, drawn.as_dict())

    parameters = [
        _run_argument(kind.n_runs),
        *map(_parameter, options),
        *([_keyword("figures", Figures, None)] if name in DRAWN else []),
        _keyword("force", Force, False),
        _keyword("as_json", AsJson, False),
        _keyword("lake", LakePath, HERE),
    ]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    verb.__doc__ = kind.__doc__
    return reading(either_run(verb))


def _keyword(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _run_argument(n_runs: tuple[int, int | None]) -> inspect.Parameter:
    if n_runs[1] == 1:
        return _keyword("run", AnyRun, "latest")
    about = "Runs, each by id, unique prefix, tag, or `latest`."
    argument = typer.Argument(metavar="RUN", help=about, autocompletion=runs)
    return _keyword("run", Annotated[list[str], argument], ["latest"])


def _parameter(option: "Option") -> inspect.Parameter:
    """The option as Typer takes it; those that take several values are None if none is given."""
    if option.kind is bool:
        typed = option.flag if option.default is False else f"{option.flag}/--no-{option.flag.removeprefix('--')}"
        return _keyword(option.name, Annotated[bool, typer.Option(typed, help=option.about)], option.default)
    about = option.about.rstrip(".") + "; may repeat." if option.repeats else option.about
    declared = typer.Option(option.flag, help=about, metavar=option.metavar or "|".join(option.choices) or None)
    kind: Any = list[option.kind] if option.repeats else option.kind
    annotation = Annotated[kind | None if option.repeats or option.optional else kind, declared]
    return _keyword(
        option.name, annotation, list(option.default) if option.repeats and option.default else option.default
    )


for _verb in (embed.embed, judge.judge, read_again.lens, read_again.attribution, *neuron_verbs.ANALYSES):
    app.command()(either_run(_verb))


@app.command("list")
@either_run
def list_analyses(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only of this run.")] = None,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """What was computed and is stored, oldest first within each run."""
    stored = open_lake(lake).analyses(run)
    if as_json:
        return print_json([analysis.as_dict() for analysis in stored])
    for analysis in stored:
        given = ", ".join(f"{k} {v}" for k, v in analysis.parameters.items() if v not in (None, False))
        n_rows = sum(analysis.n_rows.values())
        print(f"{analysis.analysis_id}  {analysis.run_id}  {analysis.time}  {n_rows:,} rows  {given}")
    return None


@app.command("rm")
def remove(
    analysis_id: Annotated[str, typer.Argument(metavar="ANALYSIS", help="Id of the analysis.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without it only says what would happen.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Delete the bytes at once, not with the next vacuum.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Remove an analysis: its rows leave all tables at once; `lake vacuum` frees the bytes."""
    result = open_lake(lake).remove_analysis(analysis_id, dry_run=not yes, now=now).as_dict()
    if as_json:
        return print_json(result)
    verb = "removed" if yes else "would remove (add --yes)"
    return print(f"{verb} {result['analysis_id']}: {result['files']:,} files, {result['bytes']:,} bytes")


def _print_answers(answers: Sequence["Answer"], as_json: bool, drawn: Json | None = None) -> None:
    for answer in answers:
        how = "computed" if answer.computed else "found"
        rows = ", ".join(f"{n:,} {table}" for table, n in answer.n_rows.items())
        say(f"{answer.name} {how} in {answer.seconds:.1f} s: {rows}")
        for notice in answer.notices:
            say(f"  note: {notice}")
    if as_json:
        facts = answers[0].as_dict() if len(answers) == 1 else {"analyses": [a.as_dict() for a in answers]}
        print_json(facts | ({"figures": drawn} if drawn else {}))
        return
    for answer in answers:
        print(answer.analysis_id)
    if drawn:
        print(drawn["index"])
