"""Correctness as an experiment, in seven steps: from right and wrong answers to the words of neurons that matter."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...collect.configuration.config import CollectConfig
from ...collect.experiment.config_file import read_config
from ...collect.experiment.correctness_config import WITHOUT_EFFECT, CorrectnessConfig
from ...collect.inputs.prompts import checked_source
from ...lake.errors import UsageError
from ...lake.values import JsonView
from .correctness_costs import ablation_cost, neurons_cost, ranking_cost, runs_cost, second_order_cost
from .correctness_session import NAME, TEST, TRAIN, CorrectnessSession
from .session import Step

if TYPE_CHECKING:
    from ...collect.running.collector import Callbacks
    from ..open_lake import OpenLake


def labels(session: CorrectnessSession) -> None:
    """Step 1: greedy answers, graded."""
    for name in (TRAIN, TEST):
        run = session.answers(name)
        graded = session.lake.scan("sequences", run).select("correct").collect()["correct"]
        session.told(f"  {name}: {int(graded.sum() or 0):,} right of {graded.len() - graded.null_count():,} graded")


def directions(session: CorrectnessSession) -> None:
    """Step 2: directions on both sets, each beside its baselines."""
    for name in (TRAIN, TEST):
        session.fitted_directions(session.answers(name))


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


STEPS: tuple[Step[CorrectnessSession], ...] = (
    Step(1, NAME, labels, runs_cost),
    Step(2, NAME, directions, runs_cost, lambda s: s.config.directions.enabled),
    Step(3, NAME, ablation, ablation_cost, lambda s: s.config.ablation.enabled),
    Step(4, NAME, ranking, ranking_cost, lambda s: s.config.neurons.enabled),
    Step(5, NAME, second_order, second_order_cost, lambda s: s.config.second_order.enabled),
    Step(
        6, NAME, chosen_neurons, neurons_cost, lambda s: s.config.neurons.enabled and s.config.second_order.enabled
    ),  # fmt: skip
    Step(7, NAME, report, runs_cost, lambda s: s.config.report is not None),
)


def open_session(
    lake: "OpenLake",
    given: str | Path | JsonView,
    runs: Sequence[str],
    trial: bool,
    changes: JsonView,
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
