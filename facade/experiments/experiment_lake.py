"""Experiments as a method: one configuration, steps that go on where they stopped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...lake.errors import ConfigError
from ...lake.values import Json, JsonView
from ...queries.queried_lake import QueriedLake
from .session import Cost, StepResult

if TYPE_CHECKING:
    from ...collect.running.collector import Callbacks
    from .session import Session


def _quietly(text: str) -> None:
    """What nobody listens to."""


@dataclass(frozen=True)
class Experiment:
    """What a call came to: the results of its steps, or what they would cost."""

    experiment_id: str
    steps: tuple[StepResult, ...] = ()
    costs: tuple[Cost, ...] = ()
    notices: tuple[str, ...] = ()

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return {
            "experiment_id": self.experiment_id, "steps": [one.as_dict() for one in self.steps],
            "costs": [one.as_dict() for one in self.costs], "notices": list(self.notices),
        }  # fmt: skip


class ExperimentLake(QueriedLake):
    """What `tracelake.open` returns, as far as experiments go."""

    def experiment(
        self,
        name: str,
        config: str | Path | JsonView,
        *,
        steps: str | None = None,
        runs: Sequence[str] = (),
        trial: bool = False,
        dry_run: bool = False,
        changes: JsonView | None = None,
        callbacks: "Callbacks | None" = None,
        told: Callable[[str], None] = _quietly,
    ) -> Experiment:
        """Run the steps of an experiment (`lake experiment NAME --config FILE`); what is in the lake is not done again.

        Args: `steps`, e.g. "2,5", of those that the name means; `runs`, stored runs to use instead of new ones;
        `trial`, one problem, one sample, ten tokens and no judge; `dry_run`, only what it will
        take; `changes`, settings by dotted key that win over the configuration's.
        """
        from . import correctness, sampling
        from .session import chosen_steps, run_steps

        kind: Any = correctness if name == correctness.NAME else sampling
        wanted = chosen_steps(kind.STEPS, name, steps)
        session, notices = kind.open_session(self, config, runs, trial, changes or {}, callbacks, told)
        for notice in notices:
            told(f"note: {notice}")
        if dry_run:
            costs = _once(cost for step in wanted if _runs(session, step, name, steps) for cost in step.cost(session))
            return Experiment(session.experiment_id, costs=costs, notices=tuple(notices))
        if not wanted:
            raise ConfigError(f"There is no step of {name} to run.")
        results = run_steps(session, wanted, named=_is_named(name, steps))
        return Experiment(session.experiment_id, tuple(results), notices=tuple(notices))


def _is_named(name: str, steps: str | None) -> bool:
    """Whether its steps are asked for one by one, and not as all that the configuration does not switch off."""
    return name not in ("all", "correctness") or steps is not None


def _runs(session: "Session", step: Any, name: str, steps: str | None) -> bool:
    return _is_named(name, steps) or step.enabled(session)


def _once(costs: Any) -> tuple[Cost, ...]:
    """Each part's cost once: steps share runs."""
    found: dict[str, Cost] = {}
    for cost in costs:
        found.setdefault(cost.part, cost)
    return tuple(found.values())
