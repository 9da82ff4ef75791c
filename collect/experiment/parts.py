"""The runs of one experiment: each is found by the experiment's id and its part, completed if it was interrupted."""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ...lake import Lake
from ...lake.values import JsonView
from ..configuration.config import CollectConfig
from ..inputs.prompts import checked_source
from ..models.loading.load import load_model
from ..models.model import LoadedModel
from ..running.collector import Callbacks, Collection, resume_run
from ..running.planning.consent import WITHOUT_REACH
from ..running.planning.plan import Estimate


@dataclass(frozen=True)
class Part:
    """One run of the experiment."""

    run_id: str
    fresh: bool
    """Whether anything was collected now."""


@dataclass(eq=False)
class ExperimentRuns:
    """Runs with this id in one lake; the model is loaded once, when the first of them has to be collected."""

    lake: Lake
    experiment_id: str
    callbacks: Callbacks
    loaded: LoadedModel | None = None

    def stored(self) -> dict[str, str]:
        """Run ids by part, the newest of each; failed runs count as if they were not there."""
        rows = [row for row in self.lake.snapshot().runs.values() if not row.removed]
        found: dict[str, str] = {}
        for row in self.lake.rows_of_runs(rows):
            if row["experiment_id"] == self.experiment_id and row["status"] != "failed":
                found[str(row["experiment_step"])] = row["run_id"]
        return found

    def collect(self, part: str, settings: JsonView) -> Part:
        """The complete run of a part: found, resumed, or collected with these settings of `lake collect`."""
        run_id = self.stored().get(part)
        if run_id is not None:
            return self._completed(run_id, settings)
        config = CollectConfig(**{**settings, "tag": self.tag(part)})
        source = checked_source(config, lake=self.lake)
        collection = Collection(
            config, self.callbacks, source=source, lake=self.lake, loaded=self.model(config),
            experiment={"id": self.experiment_id, "step": part},
        )  # fmt: skip
        return Part(collection.start(self.lake, assume_yes=False).run_id, True)

    def estimate(self, settings: JsonView) -> Estimate:
        """Tokens and bytes of a run with these settings; no weights are loaded and nothing is written."""
        config = CollectConfig(**settings)
        source = checked_source(config, lake=self.lake)
        return Collection(config, source=source, weights=False, lake=self.lake).estimate()

    def seconds_of_batch(self, settings: JsonView) -> float:
        """Wall time of one batch of such a run, loading not counted; collected in a lake that is thrown away."""
        config = CollectConfig(**{**settings, "limit": settings["batch_size"]})
        collection = Collection(config, source=checked_source(config), loaded=self.model(config))
        with TemporaryDirectory() as folder:
            lake = Lake.create(Path(folder) / "lake")
            started = time.perf_counter()
            collection.start(lake, assume_yes=True)
            return time.perf_counter() - started

    def tag(self, part: str) -> str:
        """Label of a part's run, which begins its id."""
        plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in part.lower())
        return f"{self.experiment_id}-{plain}"[:40].rstrip("-")

    def model(self, config: CollectConfig) -> LoadedModel:
        """The model of all parts, loaded once."""
        if self.loaded is None:
            self.loaded = load_model(
                config.model, revision=config.revision, dtype=config.dtype, device=config.device,
                attn_implementation=config.attn_implementation,
            )  # fmt: skip
        return self.loaded

    def _completed(self, run_id: str, settings: JsonView) -> Part:
        """A stored run of a part, completed if it was interrupted; what reaches outside of the lake is typed again."""
        if self.lake.run_status(run_id) == "complete":
            return Part(run_id, False)
        typed = {name: value for name, value in settings.items() if name not in WITHOUT_REACH and value is not None}
        resume_run(self.lake, run_id, callbacks=self.callbacks, loaded=self.model(CollectConfig(**settings)), **typed)
        return Part(run_id, True)
