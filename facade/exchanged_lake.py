"""What a lake takes from other programs and gives them, and later verdicts on completions: a method per verb."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..queries.queried_lake import QueriedLake

if TYPE_CHECKING:
    from ..collect.labelling import Labelled
    from ..lake.exchange.correctness_files import CorrectnessFiles
    from ..lake.exchange.import_run import ImportedRun
    from ..lake.exchange.sae_import import ImportedSae
    from ..lake.exchange.saedashboard.writing import WrittenBatches
    from ..lake.exchange.saelens.cache import WrittenCache

PathName = str | Path


class ExchangedLake(QueriedLake):
    """A lake with the verbs of exchange and of later verdicts."""

    def grade(self, run: str = "latest", grader: str = "exact") -> "Labelled":
        """Grade a run's completions again, into `grades` (`lake analyze grade`)."""
        from ..collect.labelling import grade_run

        return grade_run(self, run, grader)

    def label(self, run: str = "latest", *, labels_from: str | None = None, grader: str | None = None) -> "Labelled":
        """Verdicts into `labels`: of another run over the same prompts, or of a grader (`lake analyze labels`)."""
        from ..collect.labelling import grade_run
        from ..collect.labelling import labels_from as labels_of_run
        from ..lake.errors import UsageError

        if (labels_from is None) == (grader is None):
            raise UsageError("Say where the labels come from: `labels_from` another run, or a `grader`.")
        if grader is not None:
            return grade_run(self, run, grader, table="labels")
        return labels_of_run(self, run, str(labels_from))

    def export_correctness(
        self, folder: PathName, run: str = "latest", *, max_length: int = 256, normalize: bool = True
    ) -> "CorrectnessFiles":
        """Write a graded run as the arrays of the second-order project (`lake export correctness`)."""
        from ..lake.exchange.correctness_files import export_correctness

        return export_correctness(self, run, Path(folder), max_length=max_length, normalize=normalize)

    def export_saelens_cache(
        self, folder: PathName, layer: int, site: str = "resid_post", run: str = "latest", *, context: int | None = None
    ) -> "WrittenCache":
        """Write the activation cache that SAELens trains from (`lake export saelens-cache`)."""
        from ..lake.exchange.saelens.cache import export_cache

        return export_cache(self, run, Path(folder), layer=layer, site=site, context=context)

    def import_logprobs(
        self,
        files: Sequence[PathName],
        *,
        requests: PathName | None = None,
        distribution: str = "raw",
        tag: str | None = None,
        again: bool = False,
        new_only: bool = False,
    ) -> "list[ImportedRun]":
        """Import responses with logprobs of OpenAI-compatible interfaces (`lake import logprobs`)."""
        from ..lake.exchange.interfaces.imports import ImportChoices, Responses, check_logs, import_logs, is_processed

        choices = ImportChoices(tag, again, new_only)
        read = Responses(None if requests is None else Path(requests), processed=is_processed(distribution))
        return import_logs(self, check_logs([Path(file) for file in files], read, choices), read, choices)

    def import_inspect(
        self, logs: Sequence[PathName], *, tag: str | None = None, again: bool = False, new_only: bool = False
    ) -> "list[ImportedRun]":
        """Import logs of Inspect AI (`lake import inspect`, extra `inspect`)."""
        from ..lake.exchange.interfaces.imports import ImportChoices, check_logs, import_logs
        from ..lake.exchange.interfaces.inspect_log import FORMAT, read_log

        choices = ImportChoices(tag, again, new_only)
        checked = check_logs([Path(log) for log in logs], read_log, choices, FORMAT)
        return import_logs(self, checked, read_log, choices, FORMAT)

    def import_sae(self, folder: PathName, *, allow_pt: bool = False, **how: Any) -> "ImportedSae":
        """Import an autoencoder of another library (`lake sae import`); `how` are the fields of `SaeImport`."""
        from ..lake.exchange.sae_import import SaeImport, import_sae

        read_arrays = None
        if allow_pt:
            from ..analysis.sae.pt_file import read_pt as read_arrays
        return import_sae(self, Path(folder), SaeImport(**how), read_arrays=read_arrays)

    def export_sae(self, sae: str, folder: PathName) -> list[str]:
        """Write an autoencoder as a SAELens folder (`lake sae export`); the names of its files."""
        from ..lake.exchange.sae_export import export_sae

        return export_sae(self, sae, Path(folder))

    def export_dashboard(self, sae: str, folder: PathName, run: str = "latest") -> "WrittenBatches":
        """Write the features of an autoencoder as SAEDashboard does (`lake sae export --dashboard`)."""
        from ..lake.exchange.saedashboard.writing import export_dashboard

        return export_dashboard(self, sae, Path(folder), run=run)
