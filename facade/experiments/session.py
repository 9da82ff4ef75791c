"""The frame of every experiment: numbered steps, what each has at hand, and how it went. Called again, it goes on.

Nothing is noted down beside the lake: a step's runs are found by the experiment's id, its analyses by their questions.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ...lake.errors import ConfigError, NotFoundError, UsageError, did_you_mean
from ...lake.values import Json, JsonView

if TYPE_CHECKING:
    from ...analysis.question import Answer
    from ...collect.experiment.parts import ExperimentRuns
    from ..open_lake import OpenLake

S = TypeVar("S", bound="Session")


@dataclass
class StepResult:
    """What a step came to."""

    step: int
    name: str
    status: str = "complete"
    """complete; skipped (switched off in the configuration); refused (a trial too small for what is asked)."""
    computed: bool = False
    """Whether anything was collected or computed now."""
    runs: dict[str, str] = field(default_factory=dict)
    """Run ids by part."""
    analyses: dict[str, list[str]] = field(default_factory=dict)
    """Ids by name."""
    notices: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Cost:
    """What a part of an experiment will take at most; `exact` where lengths are known beforehand."""

    step: int
    part: str
    n_sequences: int = 0
    n_tokens: int = 0
    n_bytes: int = 0
    exact: bool = True
    n_branches: int = 0
    n_calls: int = 0
    """Requests to a service."""
    worst_usd: float | None = 0.0
    """None where only the number of calls is limited."""
    stored: bool = False
    """Whether it is in the lake already."""
    minutes: float | None = None
    """Of wall time, from one batch that was measured; None where none was."""

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Step(Generic[S]):
    """One step: its number, its name on the command line, what it does and what that may cost."""

    number: int
    name: str
    run: Callable[[S], None]
    cost: Callable[[S], Sequence[Cost]]
    enabled: Callable[[S], bool] = lambda session: True


@dataclass
class Session:
    """What the steps of one experiment have at hand."""

    lake: "OpenLake"
    runs: "ExperimentRuns"
    told: Callable[[str], None]
    """Is given what is worth saying, as it comes."""
    trial: bool = False
    """Whether a question that so few rows cannot answer is noted instead of raised."""
    result: StepResult = field(default_factory=lambda: StepResult(0, ""))
    """Of the step at hand."""

    @property
    def experiment_id(self) -> str:
        """The id by which the runs are found."""
        return self.runs.experiment_id

    def collect(self, part: str, settings: JsonView) -> str:
        """The run of a part, collected if it is not there; its id."""
        done = self.runs.collect(part, settings)
        self.result.runs[part] = done.run_id
        self.result.computed |= done.fresh
        self.told(f"  {part}: {done.run_id} {'collected' if done.fresh else 'found'}")
        return done.run_id

    def ask(self, name: str, runs: str | Sequence[str], **options: Any) -> "Answer | None":
        """The answer of an analysis, computed if it is not there; None in a trial that is too small for it."""
        given = {option: value for option, value in options.items() if value is not None}
        try:
            answer = self.lake.analyze(name, runs, **given)
        except ConfigError as error:
            if not self.trial:
                raise
            self.refuse(f"{name}: {error}")
            return None
        self.note_analysis(name, answer.analysis_id, answer.computed, answer.notices)
        return answer

    def note_analysis(self, name: str, analysis_id: str, computed: bool, notices: Sequence[str] = ()) -> None:
        """Take an analysis, however it was made, into the step's result."""
        named = self.result.analyses.setdefault(name, [])
        if analysis_id not in named:
            named.append(analysis_id)
        self.result.computed |= computed
        self.told(f"  {name}: {analysis_id} {'computed' if computed else 'found'}")
        for notice in notices:
            self.note(notice)

    def note(self, text: str) -> None:
        """Say something that is no error."""
        self.result.notices.append(text)
        self.told(f"  note: {text}")

    def refuse(self, why: str) -> None:
        """The step is too small for what is asked; said, and gone on from."""
        self.result.status = "refused"
        self.note(why)


def run_steps(session: S, steps: Sequence[Step[S]], *, named: bool) -> list[StepResult]:
    """Every step in order; those that the configuration switches off only where they are `named`."""
    results = []
    for step in steps:
        started = time.perf_counter()
        session.result = StepResult(step.number, step.name)
        results.append(session.result)
        session.told(f"step {step.number}, {step.name}")
        if named or step.enabled(session):
            step.run(session)
        else:
            session.result.status = "skipped"
            session.note(f"{step.name} is switched off in the configuration (enabled: false); name it to run it.")
        session.result.seconds = time.perf_counter() - started
    return results


def chosen_steps(steps: Sequence[Step[S]], name: str, numbers: str | None) -> list[Step[S]]:
    """The steps that a name means (`all`: every one), of these only the numbers in `2,5`; errors say what there is."""
    names = list(dict.fromkeys(step.name for step in steps))
    if name != "all" and name not in names:
        raise NotFoundError(f"There is no experiment {name!r}.{did_you_mean(name, [*names, 'all'])}")
    of_name = [step for step in steps if name in ("all", step.name)]
    if numbers is None:
        return of_name
    wanted: list[int] = []
    known = [str(step.number) for step in of_name]
    for text in numbers.split(","):
        if text.strip() not in known:
            listed = ", ".join(f"{step.number} ({step.name})" for step in of_name)
            raise UsageError(f"--steps {numbers!r}: there is no step {text.strip()!r} of {name}. Possible: {listed}.")
        wanted.append(int(text))
    return [step for step in of_name if step.number in wanted]
