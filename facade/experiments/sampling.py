"""The geometry of sampling as an experiment: its steps by the source's numbers, and how a session of it is opened."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...collect.configuration.config import CollectConfig
from ...collect.experiment.config_file import read_config
from ...collect.experiment.sampling_config import WITHOUT_EFFECT, SamplingConfig
from ...collect.inputs.prompts import checked_source
from ...lake.errors import ConfigError, UsageError
from ...lake.values import JsonView
from . import sampling_costs as costs
from . import sampling_steps as work
from .sampling_session import SamplingSession
from .session import Step
from .steering_step import steering

if TYPE_CHECKING:
    from ...collect.running.collector import Callbacks
    from ..open_lake import OpenLake

NAME = "sampling"
STEPS: tuple[Step[SamplingSession], ...] = (
    Step(2, "variance", work.variance, costs.variance, lambda s: s.config.variance_exp.enabled),
    Step(3, "oracle", work.oracle, costs.oracle, lambda s: s.config.manifold_exp.enabled),
    Step(4, "oracle", work.forced, costs.forced, lambda s: s.config.manifold_exp.enabled),
    Step(5, "sensitivity", work.sensitivity, costs.sensitivity, lambda s: s.config.sensitivity_exp.enabled),
    Step(6, "attribution", work.attribution, costs.attribution, lambda s: s.config.attribution_exp.enabled),
    Step(7, "clusters", work.clusters, costs.clusters, lambda s: s.config.clustering.enabled),
    Step(8, "steering", steering, costs.steering, lambda s: s.config.steering.enabled),
)


def open_session(
    lake: "OpenLake",
    given: str | Path | JsonView,
    runs: Sequence[str],
    trial: bool,
    changes: JsonView,
    callbacks: "Callbacks | None",
    told: Callable[[str], None],
) -> tuple[SamplingSession, list[str]]:
    """A session, and what is to be said of the configuration; everything that needs no model is checked first."""
    config, notices = read_config(SamplingConfig, given, WITHOUT_EFFECT, changes)
    if config.oracle != "api" and config.oracle_model is not None:
        notices.append(f"oracle_model has no effect: solutions come from the {config.oracle} (oracle: api asks it).")
    if trial:
        config = config.trial()
    source = checked_source(CollectConfig(**config.collect_settings()))
    from ...collect.experiment.identity import experiment_id, model_facts, problems_digest
    from ...collect.experiment.parts import ExperimentRuns
    from ...collect.running.collector import Callbacks

    facts = model_facts(config.model)
    digest, n_problems = problems_digest(source)
    greedy, sampled = _named_runs(lake, runs, facts)
    named = {f"{one:g}": run for one, run in sampled.items()} | ({"greedy": greedy} if greedy else {})
    shared = config.shared(facts["n_layers"])
    known_as = experiment_id(NAME, shared, facts, digest, named)
    session = SamplingSession(
        lake, ExperimentRuns(lake, known_as, callbacks or Callbacks()), told, trial, config=config,
        n_layers=facts["n_layers"], n_problems=n_problems, given_greedy=greedy, given_sampled=sampled,
    )  # fmt: skip
    return session, notices


def _named_runs(lake: "OpenLake", runs: Sequence[str], facts: JsonView) -> tuple[str | None, dict[float, str]]:
    """The stored runs that were named: the greedy one, and those that were sampled, by temperature."""
    greedy: str | None = None
    sampled: dict[float, str] = {}
    for name in runs:
        run_id = lake.resolve_run(name)
        about = lake.run_json(run_id)
        if (status := lake.run_status(run_id)) != "complete":
            raise ConfigError(
                f"Run {run_id} is {status}: an experiment uses complete runs. lake collect --resume {run_id}"
            )
        _check_model(run_id, about.get("model") or {}, facts)
        config = about.get("config") or {}
        if about.get("kind") != "generate" or "max_new_tokens" not in config:
            raise ConfigError(f"Run {run_id} holds no answers that a model was asked for: --run takes generated runs.")
        temperature = CollectConfig(**config).sampling.temperature
        if (temperature == 0 and greedy is not None) or temperature in sampled:
            raise UsageError(f"Two runs of temperature {temperature:g} are named with --run: {run_id} is the second.")
        if temperature == 0:
            greedy = run_id
        else:
            sampled[temperature] = run_id
    return greedy, sampled


def _check_model(run_id: str, model: JsonView, facts: JsonView) -> None:
    """ConfigError if a stored run is of another model than the configuration's."""
    for name in ("architecture", "weights_sha256", "revision", "config_sha256", "tokenizer_sha256"):
        before, now = model.get(name), facts.get(name)
        if None not in (before, now) and before != now:
            raise ConfigError(
                f"Run {run_id} was collected with another model: its {name} is {before}, that of the configuration is "
                f"{now}. Name the same: --model {model.get('name')}."
            )
