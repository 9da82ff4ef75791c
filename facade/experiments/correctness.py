"""Correctness as an experiment, in seven steps: from right and wrong answers to the words of neurons that matter."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...collect.configuration.config import CollectConfig
from ...collect.experiment.config_file import read_config
from ...collect.experiment.correctness_config import WITHOUT_EFFECT, CorrectnessConfig
from ...collect.inputs.prompts import checked_source
from ...lake.errors import ConfigError, UsageError
from ...lake.values import Json
from .session import Cost, Session, Step

if TYPE_CHECKING:
    from ...collect.running.collector import Callbacks
    from ..open_lake import OpenLake

NAME = "correctness"
KEEP = ("tokens", "activations:final_norm")
TEST, TRAIN = "test", "train"


@dataclass
class CorrectnessSession(Session):
    """A session with its configuration and the model's depth."""

    config: CorrectnessConfig = field(default_factory=lambda: CorrectnessConfig.model_validate({}))
    n_layers: int = 0
    measured: float | None = None

    def part(self, name: str) -> tuple[str, Json]:
        """Name and settings of the greedy answers to the problems, or to those that things are fitted on."""
        config = self.config
        more = {
            "keep": KEEP, "temperature": 0.0, "max_new_tokens": config.generation.max_new_tokens,
            "repetition_penalty": config.generation.repetition_penalty,
        }  # fmt: skip
        if name == TRAIN:
            more |= {"dataset": config.train_dataset, "limit": config.train_limit}
        return f"{name}:{config.generation.max_new_tokens}", {**config.collect_settings(), **more}

    def answers(self, name: str) -> str:
        """The run of these answers, collected if it is not there."""
        return self.collect(*self.part(name))

    def batch_minutes(self, settings: Mapping[str, Any]) -> float:
        """Minutes that one batch of answers takes, measured once, in a lake that is thrown away."""
        if self.measured is None:
            from ... import collect

            with TemporaryDirectory() as folder:
                started = time.perf_counter()
                collect(Path(folder) / "lake", progress=False, **{**settings, "limit": settings["batch_size"]})
                self.measured = (time.perf_counter() - started) / 60
        return self.measured

    @property
    def at(self) -> str:
        """Position of the effects: where the direction is fitted, a mean at the answer's end."""
        return "prompt" if self.config.directions.at == "prompt" else "answer"

    def direction(self) -> str:
        """The id of the direction of final states that the train problems gave; ConfigError if there is none."""
        import polars as pl

        run = self.answers(TRAIN)
        answer = self._directions(run)
        rows = self.lake.scan("directions", run).filter(
            pl.col("method") == self.config.second_order.method, pl.col("within").is_null()
        )
        found = [] if answer is None else rows.filter(pl.col("analysis_id") == answer.analysis_id).collect()
        if not len(found):
            raise ConfigError(
                f"{self.config.train_dataset} gave no direction of {self.config.second_order.method}: take more "
                "problems (train_limit), or name another method (second_order.method, directions.methods)."
            )
        return str(found["direction_id"][0])  # type: ignore[index]

    def _directions(self, run: str) -> Any:
        section = self.config.directions
        return self.ask(
            "directions", run, site="final_norm", at=section.at, method=",".join(section.methods), unit=section.unit,
            within=section.within,
        )  # fmt: skip


def labels(session: CorrectnessSession) -> None:
    """Step 1: greedy answers, graded."""
    for name in (TRAIN, TEST):
        run = session.answers(name)
        graded = session.lake.scan("sequences", run).select("correct").collect()["correct"]
        session.told(f"  {name}: {int(graded.sum() or 0):,} right of {graded.len() - graded.null_count():,} graded")


def directions(session: CorrectnessSession) -> None:
    """Step 2: directions on both sets, each beside its baselines."""
    for name in (TRAIN, TEST):
        session._directions(session.answers(name))


def ablation(session: CorrectnessSession) -> None:
    """Step 3: every layer taken away."""
    section, train = session.config.ablation, session.answers(TRAIN)
    done = session.lake.ablate(
        session.answers(TEST), sites=section.sites, actions=section.actions, layers=section.layers,
        means_from=train if "mean" in section.actions else None, oracle=section.oracle, limit=section.limit,
        model=session.config.model.model_name_or_path,
    )  # fmt: skip
    session.note_analysis("ablation", done.problems.analysis_id, done.problems.computed, done.problems.notices)
    session.note_analysis("layer-ablations", done.layers.analysis_id, done.layers.computed, done.layers.notices)


def ranking(session: CorrectnessSession) -> None:
    """Step 4: every neuron ranked."""
    done = session.lake.rank_neurons(session.answers(TEST), model=session.config.model.model_name_or_path)
    session.note_analysis("neurons", done.analysis_id, done.computed, done.notices)


def second_order(session: CorrectnessSession) -> None:
    """Step 5: what every neuron does through later heads."""
    _scores(session)


def _scores(session: CorrectnessSession) -> tuple[str, str]:
    """The test run, and the id of its scores."""
    section, run = session.config.second_order, session.answers(TEST)
    done = session.lake.second_order(
        session.direction(), run, at=session.at, scaling=section.scaling, by=("head",) if section.by_head else (),
        model=session.config.model.model_name_or_path,
    )  # fmt: skip
    session.note_analysis("second-order", done.scores.analysis_id, done.scores.computed, done.scores.notices)
    session.note_analysis("neuron-effects", done.effects.analysis_id, done.effects.computed, done.effects.notices)
    return run, done.scores.analysis_id


def chosen_neurons(session: CorrectnessSession) -> None:
    """Step 6: components, words, and what happens when neurons are removed."""
    section = session.config.neurons
    run, scores = _scores(session)
    shared = {
        "neurons": section.neurons, "top_k": section.top_k, "scores": scores,
        "model": session.config.model.model_name_or_path,
    }  # fmt: skip
    lake = session.lake
    for name, done in (
        ("neuron-pca", lake.neuron_pca(run, **shared)),
        ("neuron-words", lake.neuron_words(run, lexicon=section.lexicon, atoms=section.atoms, **shared)),
        ("neuron-ablation", lake.neuron_ablation(run, **shared)),
    ):
        session.note_analysis(name, done.analysis_id, done.computed, done.notices)


def report(session: CorrectnessSession) -> None:
    """Step 7: the report of the answers, with the charts of what was computed."""
    if session.config.report is None:
        raise UsageError("Step 7 writes a report: say where to (report: FILE.html).")
    written = session.lake.report(session.answers(TEST), output=Path(session.config.report))
    session.told(f"  report: {written}")


def runs_cost(session: CorrectnessSession) -> list[Cost]:
    """The answers of both sets: tokens and bytes, and minutes by one batch of them."""
    found = []
    for name in (TRAIN, TEST):
        part, settings = session.part(name)
        run_id = session.runs.stored().get(part)
        if run_id is not None and session.lake.run_status(run_id) == "complete":
            found.append(Cost(1, part, stored=True))
            continue
        sizes = session.runs.estimate(settings)
        minutes = session.batch_minutes(settings) * sizes.n_sequences / settings["batch_size"]
        found.append(Cost(
            1, part, sizes.n_sequences, sizes.n_tokens, sizes.n_bytes, sizes.exact, minutes=minutes
        ))  # fmt: skip
    return found


def ablation_cost(session: CorrectnessSession) -> list[Cost]:
    """Every problem once per condition, as long as its unedited answer may be."""
    section = session.config.ablation
    _, settings = session.part(TEST)
    sizes = session.runs.estimate(settings | {"keep": ("tokens",)})
    n_layers = session.n_layers if section.layers == "all" else len(section.layers.split(","))
    n = 1 + len(section.sites) * len(section.actions) * n_layers
    problems = min(section.limit or sizes.n_sequences, sizes.n_sequences)
    share = problems / max(1, sizes.n_sequences)
    minutes = session.batch_minutes(settings) * problems * n / settings["batch_size"]
    tokens = int(sizes.n_tokens * n * share)
    return [*runs_cost(session), Cost(3, "ablation", problems * n, tokens, 60 * problems * n, False, minutes=minutes)]


STEPS: tuple[Step[CorrectnessSession], ...] = (
    Step(1, NAME, labels, runs_cost),
    Step(2, NAME, directions, runs_cost, lambda s: s.config.directions.enabled),
    Step(3, NAME, ablation, ablation_cost, lambda s: s.config.ablation.enabled),
    Step(4, NAME, ranking, runs_cost, lambda s: s.config.neurons.enabled),
    Step(5, NAME, second_order, runs_cost, lambda s: s.config.second_order.enabled),
    Step(6, NAME, chosen_neurons, runs_cost, lambda s: s.config.neurons.enabled and s.config.second_order.enabled),
    Step(7, NAME, report, runs_cost, lambda s: s.config.report is not None),
)


def open_session(
    lake: "OpenLake",
    given: str | Path | Mapping[str, Any],
    runs: Sequence[str],
    trial: bool,
    changes: Mapping[str, Any],
    callbacks: "Callbacks | None",
    told: Callable[[str], None],
) -> tuple[CorrectnessSession, list[str]]:
    """A session, and what is to be said of the configuration; everything that needs no model is checked first."""
    config, notices = read_config(CorrectnessConfig, given, WITHOUT_EFFECT, changes)
    if runs:
        raise UsageError("correctness collects its own answers, test and train: leave out --run.")
    config = config.trial() if trial else config
    from ...collect.experiment.identity import experiment_id, model_facts, problems_digest
    from ...collect.experiment.parts import ExperimentRuns
    from ...collect.running.collector import Callbacks

    more = {"dataset": config.train_dataset, "limit": config.train_limit}
    digests = [
        problems_digest(checked_source(CollectConfig(**{**config.collect_settings(), **part})))[0]
        for part in ({}, more)
    ]
    facts = model_facts(config.model)
    shared = config.model_dump(include={"prompt_template", "chat", "grader", "seed", "batch_size"})
    shared["generation"] = config.generation.model_dump()
    known_as = experiment_id(NAME, shared, facts, "-".join(digests), {})
    session = CorrectnessSession(
        lake, ExperimentRuns(lake, known_as, callbacks or Callbacks()), told, trial, config=config,
        n_layers=facts["n_layers"],
    )  # fmt: skip
    return session, notices
