"""From a corpus to features in one go: harvest, train, evaluate, encode. Each step is what its own verb does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..analysis.sae.features import FeatureTables
from ..analysis.sae.training.options import TrainOptions
from ..analysis.sae.training.trainer import Trained, start_training
from ..collect.configuration.config import resolve_config
from ..collect.running.collector import Callbacks, Collection
from ..lake import Lake
from ..lake.values import Json, JsonView
from .sae_evaluation import Evaluated, EvaluationOptions, evaluate
from .sae_features import compute_features

if TYPE_CHECKING:
    from ..collect.running.collector import Collected

VALIDATION = 0.05
"""Share of the documents that validate, if nothing is said."""


@dataclass
class SaeRun:
    """What each step left."""

    run_id: str
    trained: Trained | None = None
    evaluated: list[Evaluated] = field(default_factory=list)
    features: list[FeatureTables] = field(default_factory=list)

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return {
            "run_id": self.run_id,
            "trained": self.trained and self.trained.as_dict(),
            "evaluated": [one.as_dict() for one in self.evaluated],
            "features": [one.as_dict() for one in self.features],
        }


def harvest(
    lake: Lake,
    source: str,
    options: TrainOptions,
    settings: JsonView,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> "Collected":
    """Read a corpus and keep the vectors that the training will read, of all layers in one pass."""
    layers = "@" + ",".join(map(str, options.layers)) if options.layers else ""
    sites = dict.fromkeys(site for site in (options.site, options.to_site) if site is not None)
    keep = ["tokens", *(f"activations:{site}{layers}" for site in sites)]
    config = resolve_config({"corpus": source, "keep": keep, "validation": VALIDATION, **settings})
    return Collection(config, Callbacks(should_stop=should_stop)).start(lake)


def run_saes(
    lake: Lake,
    run: str,
    options: TrainOptions,
    *,
    with_features: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[int, int, float], None] = lambda step, n_steps, fvu: None,
) -> SaeRun:
    """Train on a harvested run, evaluate on its validation documents, and write the features of the whole run."""
    run_id = lake.resolve_run(run)
    trained = start_training(lake, [run_id], options, should_stop=should_stop, on_progress=on_progress)
    done = SaeRun(run_id, trained)
    for sae_id in trained.sae_ids:
        on_step(f"evaluating {sae_id}")
        done.evaluated.append(evaluate(lake, sae_id, run_id, EvaluationOptions(split="validation")))
    for sae_id in trained.sae_ids if with_features else ():
        on_step(f"features of {sae_id}")
        done.features.append(compute_features(lake, sae_id, run_id))
    return done
