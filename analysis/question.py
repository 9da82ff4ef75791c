"""A question about stored rows: frozen options that say what they read and compute. `ask` is the only frame.

The answer to the same question about the same committed files is looked up, not computed again. Adding an analysis is
one file with its `Question`, its line in `QUESTIONS`, and its table: `lake analyze NAME`, `lake.analyze("NAME")` and
the page of commands follow from the fields.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import ClassVar, Self

from ..lake import Lake
from ..lake.analyses import commit_analysis
from ..lake.derived import Analysis, analysis_row, digest, input_digest, stored_analyses
from ..lake.errors import NotFoundError, UsageError, did_you_mean
from ..lake.snapshot import Snapshot
from ..lake.values import JsonView
from .option import options_of

Columns = Mapping[str, object]
Reads = Sequence[tuple[str, Mapping[str, int | str]]]
"""What of a run is read: (table, values of key columns that are wanted of it)."""
QUESTIONS = {
    "trajectory": "paths.trajectory:Trajectory",
    "topology": "paths.topology:Topology",
    "compare": "comparing.comparison:Comparison",
    "directions": "directions.question:Directions",
    "variance": "sampling.variance:Variance",
    "oracle": "sampling.oracle:OracleDistances",
    "sensitivity": "sampling.sensitivity:Sensitivity",
    "clusters": "sampling.clusters:SolutionClusters",
    "pass-rates": "sampling.pass_rates:PassRates",
    "deviations": "sampling.deviations:Deviations",
    "random-directions": "directions.random_directions:RandomDirections",
    "steering": "sampling.steering:Steering",
    "neuron-effects": "neurons.effects:NeuronEffects",
    "layer-ablations": "neurons.layer_ablations:LayerAblations",
    "links": "tracks.links:Links",
    "tracks": "tracks.question:HypothesisTracks",
    "detect": "detection.question:Detection",
}
"""Names of the analyses, in the order of `lake analyze --help`: module of this folder, and the question in it.

Such a module loads no model library when it is imported: its help must be there at once.
"""


@dataclass
class Rows:
    """What an analysis computed: columns by table, how many sequences it saw, what a reader must know."""

    tables: Mapping[str, Columns]
    n_sequences: int
    notices: list[str] = field(default_factory=list)
    vectors: Sequence[JsonView] = ()
    """Rows with a vector, as calls of `append_vectors`."""


@dataclass(frozen=True)
class Evidence:
    """One run that is asked: its commits, and the analyses that the question needed to be there."""

    run_id: str
    snapshot: Snapshot
    answers: Mapping[str, str]
    """Ids of those analyses by name."""


@dataclass(frozen=True)
class Answer:
    """An analysis that is in the lake: found there, or computed now."""

    run_id: str
    analysis_id: str
    name: str
    parameters: dict[str, object]
    computed: bool
    n_rows: dict[str, int]
    seconds: float
    notices: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return dict(vars(self)) | {"seconds": round(self.seconds, 3), "notices": list(self.notices)}


@dataclass(frozen=True)
class Question(ABC):
    """What can be asked of one run or several. The docstring of a kind is its help.

    The fields made with `option` are its options, on the command line and in Python; open choices are None or `auto`.
    """

    name: ClassVar[str]
    n_runs: ClassVar[tuple[int, int | None]] = (1, 1)
    """How many runs it can be asked of: at least, and at most (None: any number)."""

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError for options that do not go together, or for too many runs or too few."""
        least, most = self.n_runs
        if not least <= len(run_ids) <= (most or len(run_ids)):
            wanted = "one run" if least == most == 1 else f"{least} to {most or 'any number of'} runs"
            raise UsageError(f"{self.name} is asked of {wanted}, not of {len(run_ids)}.")

    def named(self, lake: Lake, run_ids: Sequence[str]) -> Self:
        """The same question with what it names outside of its runs (autoencoders, say) looked up in the lake."""
        return self

    def needs(self, snapshot: Snapshot) -> Sequence["Question"]:
        """Questions whose answers this one reads: they are asked of every run first."""
        return ()

    @abstractmethod
    def resolve(self, snapshot: Snapshot) -> Self:
        """The same question with its open choices made, by what the (first) run holds."""

    @abstractmethod
    def reads(self) -> Reads:
        """What is read of every run, once the choices are made."""

    @abstractmethod
    def parameters(self, run_ids: Sequence[str]) -> dict[str, object]:
        """What identifies the resolved question besides its name and the committed files."""

    @abstractmethod
    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """The rows of the resolved question."""


def ask(lake: Lake, run: str | Sequence[str], question: Question, *, force: bool = False) -> Answer:
    """The answer from the lake if it is there, else computed and written in one commit. `force` computes again.

    Of several runs the first one keeps the answer.
    """
    started = time.perf_counter()
    question = replace(question, **checked_options(type(question), vars(question)))
    run_ids = [lake.resolve_run(one) for one in ([run] if isinstance(run, str) else run)]
    question.check(run_ids)
    question = question.named(lake, run_ids)
    runs = [_evidence(lake, run_id, question) for run_id in run_ids]
    resolved = question.resolve(runs[0].snapshot)
    parameters = resolved.parameters(run_ids)
    analysis = Analysis(run_ids[0], question.name, parameters, _read_digest(runs, resolved.reads()))
    stored = stored_analyses(runs[0].snapshot.runs[run_ids[0]]).get(analysis.analysis_id)
    if stored is not None and not force:
        computed, counts, notices = False, stored.n_rows, _notices(lake, analysis)
    else:
        rows = resolved.compute(lake, runs)
        about = analysis_row(analysis, rows.n_sequences, rows.notices, run_ids[1] if len(run_ids) > 1 else None)
        tables = {name: columns for name, columns in rows.tables.items() if _length(columns)}
        named = {name: {**columns, "analysis_id": analysis.analysis_id} for name, columns in tables.items()}
        mine = {"analysis_id": analysis.analysis_id}
        vectors = [{**call, "columns": {**call["columns"], **mine}} for call in rows.vectors]
        commit_analysis(lake, analysis, {"analyses": about, **named}, vectors)
        computed, notices = True, tuple(rows.notices)
        counts = {name: _length(columns) for name, columns in tables.items()} | {"analyses": 1}
        for call in rows.vectors:
            counts[call["table"]] = counts.get(call["table"], 0) + len(call["vectors"])
    seconds = time.perf_counter() - started
    return Answer(
        analysis.run_id, analysis.analysis_id, analysis.name, parameters, computed, counts, seconds, notices
    )  # fmt: skip


def question_named(name: str, **options: object) -> Question:
    """The question called so, with these options; NotFoundError or UsageError that say what there is."""
    kind = question_kind(name)
    possible = {one.name for one in options_of(kind)}
    if unknown := [option for option in options if option not in possible]:
        raise UsageError(f"{name} has no option {unknown[0]!r}.{did_you_mean(unknown[0], possible)}")
    return kind(**checked_options(kind, options))


def question_kind(name: str) -> type[Question]:
    """The kind of question called so; NotFoundError if there is none."""
    if name not in QUESTIONS:
        raise NotFoundError(f"There is no analysis {name!r}.{did_you_mean(name, QUESTIONS)}")
    module, _, kind = QUESTIONS[name].partition(":")
    return getattr(import_module(f".{module}", __package__), kind)


def checked_options(kind: type[Question], given: Mapping[str, object]) -> dict[str, object]:
    """The options among `given` as the fields hold them; UsageError for values that cannot be."""
    return {one.name: one.checked(given[one.name]) for one in options_of(kind) if one.name in given}


def _evidence(lake: Lake, run_id: str, question: Question) -> Evidence:
    needed = question.needs(lake.snapshot(run_id))
    answers = {one.name: ask(lake, run_id, one).analysis_id for one in needed}
    return Evidence(run_id, lake.snapshot(run_id), answers)


def _read_digest(runs: Sequence[Evidence], reads: Reads) -> str:
    """16 hex digits over what is read: committed files, and answers to other questions."""
    digests = [[*run.answers.values(), input_digest(run.snapshot, reads)] for run in runs]
    return digests[0][0] if digests == [digests[0][:1]] else digest(digests)[:16]


def _notices(lake: Lake, analysis: Analysis) -> tuple[str, ...]:
    import polars as pl

    rows = lake.scan("analyses", analysis.run_id).filter(pl.col("analysis_id") == analysis.analysis_id).collect()
    text = rows["notices"][0] if rows.height else None
    return (text,) if text else ()


def _length(columns: JsonView) -> int:
    """Rows: the length of the first array among the columns; scalars are repeated."""
    return next((len(v) for v in columns.values() if hasattr(v, "__len__") and not isinstance(v, str)), 0)
