"""The verbs of `lake sae` as methods of a lake."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..queries.queried_lake import QueriedLake

if TYPE_CHECKING:
    from ..analysis.sae.evaluation import Overlap
    from ..analysis.sae.features import FeatureTables
    from ..analysis.sae.sae import Sae
    from ..analysis.sae.training.trainer import Trained
    from ..collect.judge.features.feature_run import Labelled
    from .sae_evaluation import Evaluated
    from .sae_run import SaeRun


class SaeLake(QueriedLake):
    """A lake whose autoencoders can be trained, loaded, evaluated and read."""

    def train_saes(
        self, runs: str | Sequence[str] = "latest", *, should_stop: Callable[[], bool] = lambda: False, **options: Any
    ) -> "Trained":
        """Train the product of the lists in one pass (`lake sae train`); `options` are fields of `TrainOptions`."""
        from ..analysis.sae.training.options import TrainOptions
        from ..analysis.sae.training.trainer import start_training

        chosen = TrainOptions.named(options)
        return start_training(self, [runs] if isinstance(runs, str) else runs, chosen, should_stop=should_stop)

    def resume_saes(self, run: str = "latest") -> "Trained | None":
        """Complete an interrupted training; None if it is complete."""
        from ..analysis.sae.training.trainer import resume_training

        return resume_training(self, run)

    def run_saes(self, source: str, *, model: str = "tinymath", tokens: int | None = None, **options: Any) -> "SaeRun":
        """From a corpus to features in one go (`lake sae run`); `options` are fields of `TrainOptions`."""
        from ..analysis.sae.training.options import TrainOptions
        from .sae_run import harvest, run_saes

        chosen = TrainOptions.named(options)
        given = {"model": model, "tokens": tokens, "tag": chosen.tag}
        settings = {name: value for name, value in given.items() if value is not None}
        return run_saes(self, harvest(self, source, chosen, settings).run_id, chosen)

    def sae(self, name: str) -> "Sae":
        """An autoencoder by its id or a unique beginning of it, ready to encode and decode."""
        from ..analysis.sae.folder import load_sae

        return load_sae(self, name)

    def evaluate_sae(self, name: str, run: str = "latest", *, force: bool = False, **options: Any) -> "Evaluated":
        """Its evaluation on a run (`lake sae eval`); `options` are fields of `EvaluationOptions`."""
        from .sae_evaluation import EvaluationOptions, evaluate

        return evaluate(self, name, run, EvaluationOptions(**options), force=force)

    def compare_saes(self, name: str, other: str) -> "Overlap":
        """Shares of features that two autoencoders have in common (`lake sae compare`)."""
        from ..analysis.sae.evaluation import compare

        return compare(self.sae(name), self.sae(other))

    def sae_features(
        self, name: str, run: str = "latest", *, model: str | None = None, with_model: bool = True
    ) -> "FeatureTables":
        """Encode a run into features, with statistics, examples and labels (`lake sae features`)."""
        from .sae_features import compute_features

        return compute_features(self, name, run, model=model, with_model=with_model)

    def label_features(
        self,
        name: str,
        run: str = "latest",
        *,
        judge_model: str,
        features: Sequence[int] = (),
        n: int = 20,
        base_url: str | None = None,
        key_env: str = "OPENROUTER_API_KEY",
        max_calls: int = 200,
        max_usd: float | None = 1.0,
        usd_per_million: tuple[float, float] | None = None,
        concurrency: int = 4,
        timeout_s: float = 60.0,
        on_progress: Callable[[int, int], None] = lambda done, n: None,
    ) -> "Labelled":
        """Let a judge name features and test the names (`lake sae label`, table `feature_judgements`).

        `features` are asked about, or `n` active ones that are drawn; `max_usd` None trusts `max_calls` alone.
        """
        from ..collect.judge.features.feature_run import LabelOptions, label_features
        from ..collect.judge.service.client import Service
        from ..collect.judge.service.limits import Allowance

        service = Service.at(judge_model, base_url, key_env, timeout_s)
        allowance = Allowance.of(max_calls, max_usd, usd_per_million, concurrency)
        options = LabelOptions(service, tuple(features), n, allowance)
        return label_features(self, name, run, options, on_progress=on_progress)
