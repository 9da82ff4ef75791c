"""A lake with everything that the command line can do with one: each verb is a method with the verb's options."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..lake.values import Json
from .exchanged_lake import ExchangedLake
from .experiments.experiment_lake import ExperimentLake
from .judged_lake import JudgedLake
from .neuron_lake import NeuronLake
from .sae_lake import SaeLake

if TYPE_CHECKING:
    from typing import Unpack

    from ..analysis.question import Answer
    from ..collect.configuration.settings import CollectSettings
    from ..collect.embedding.embed_run import Embedded
    from ..collect.running.collector import Collected
    from ..collect.running.planning.plan import Estimate
    from ..lake.analyses import AnalysisRemoval
    from ..lake.exchange.corevital.conventions import FirstLayer
    from ..lake.exchange.import_run import ImportedRun
    from ..lake.exchange.labels import ImportedLabels
    from ..lake.exchange.vector_files import ExportedVectors
    from ..queries.following.follow import SegmentNews
    from ..queries.following.follow_training import TrainingNews
    from ..queries.report import WrittenReport
    from ..queries.sinks.run_numbers import RunNumbers
    from .drawn_analyses import DrawnAnalyses

PathName = str | Path


def _quietly(*_: object) -> None:
    """What nobody listens to."""


class OpenLake(SaeLake, JudgedLake, NeuronLake, ExperimentLake, ExchangedLake):
    """What `tracelake.open` returns."""

    def collect(
        self, *, assume_yes: bool = False, progress: bool | None = None, **settings: "Unpack[CollectSettings]"
    ) -> "Collected":
        """Run a model and record it in this lake, as `tracelake.collect` does."""
        from .. import collect

        return collect(self, assume_yes=assume_yes, progress=progress, **settings)

    def estimate(self, **settings: "Unpack[CollectSettings]") -> "Estimate":
        """Tokens, bytes and files of a run with these settings (`lake collect --dry-run`); no weights are loaded."""
        from ..collect.configuration.config import resolve_config
        from ..collect.inputs.prompts import checked_source

        config = resolve_config(settings)
        source = checked_source(config)
        from ..collect.running.collector import Collection

        return Collection(config, source=source, weights=False).estimate()

    def resume(self, run: str = "latest", **typed: Any) -> "Collected | None":
        """Complete an interrupted run (`lake collect --resume`); None if it is complete.

        `typed` are the settings that must be given again where the run was not begun on this machine.
        """
        from ..collect.running.collector import resume_run

        return resume_run(self, run, **typed)

    def describe(self, run: str = "latest") -> Json:
        """What `lake show` prints of a run: model, configuration, tables and sizes."""
        from ..queries.description import describe_run

        return describe_run(self, self.resolve_run(run))

    def timings(self, run: str = "latest") -> Json:
        """Where the time of a run went (`lake show --timings`)."""
        from ..queries.cost import run_cost

        return run_cost(self, self.resolve_run(run))

    def follow(self, run: str = "latest", *, profile: str = "default") -> "Iterator[SegmentNews | TrainingNews]":
        """Flags and risk of each segment as it comes (`lake show --follow`), or how a training goes, until it ends."""
        from ..queries.following.follow import follow
        from ..queries.following.follow_training import follow_training

        run_id = self.resolve_run(run)
        if self.run_json(run_id).get("kind") == "sae":
            return follow_training(self, run_id)
        return follow(self, run_id, profile)

    def report(
        self,
        run: str = "latest",
        output: PathName | None = None,
        *,
        profile: str = "default",
        sequences: Iterable[int] = (),
        theme: str = "light",
    ) -> "WrittenReport":
        """Write a run as one HTML page, `report-RUN.html` if no file is named."""
        from ..collect.inputs.tokenizing.token_texts import token_texts
        from ..queries.report import write_report

        model = self.run_json(run).get("model") or {}
        texts = partial(token_texts, str(model.get("name")), model.get("revision"))
        return write_report(
            self, run, output, profile=profile, sequences=sequences, theme=theme, vocabulary=texts
        )  # fmt: skip

    def dashboard(
        self,
        *,
        port: int = 0,
        open_browser: bool = True,
        allow_hosts: Sequence[str] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        """Serve the lake to a browser on this machine until it is interrupted; `say` gets the address."""
        from ..queries.dashboard import serve

        serve(self.path, port=port, open_browser=open_browser, say=say, allow_hosts=allow_hosts)

    def metrics(self, run: str = "latest", *, profile: str = "default") -> "RunNumbers":
        """A run's numbers as `lake metrics` gives them to Prometheus or Datadog; never any text."""
        from ..queries.sinks.run_numbers import RunReader

        return RunReader(self, run, profile).read()

    def push_metrics(self, url: str, run: str = "latest", *, job: str = "tracelake", profile: str = "default") -> None:
        """Replace the run's group at a Pushgateway."""
        from ..queries.sinks.prometheus import push

        push(self.metrics(run, profile=profile), url, job)

    def send_metrics(self, run: str = "latest", *, site: str | None = None, profile: str = "default") -> int:
        """Send the run's numbers to Datadog (the key is DD_API_KEY); how many series it were."""
        from ..queries.sinks.datadog import Intake, send

        return send(self.metrics(run, profile=profile), Intake.from_environment(site))

    def embed(
        self,
        run: str = "latest",
        *,
        embedder: str | None = None,
        scopes: Sequence[str] = ("completion",),
        device: str = "cpu",
        on_progress: Callable[[int, int], None] = _quietly,
    ) -> "Embedded":
        """Embed the growing text of a run, and its prompt, by scope; only what is missing.

        `on_progress` is given the texts that are done, and all of them.
        """
        from ..collect.embedding.embed_run import embed_run
        from ..collect.embedding.embedder import PROMPT

        # Without the prompt's own embedding there is no cosine to the prompt.
        wanted = tuple(dict.fromkeys((*scopes, PROMPT)))
        return embed_run(self, run, embedder=embedder, scopes=wanted, device=device, on_progress=on_progress)

    def analyze(
        self, name: str, run: str | Sequence[str] = "latest", *, force: bool = False, **options: Any
    ) -> "Answer":
        """The answer of an analysis (`lake analyze --help` lists them) about a run, or several: looked up, or computed.

        `options` are the fields of its question, e.g. `site="resid_post", layer=3`.
        """
        from ..analysis.question import ask, question_named

        return ask(self, run, question_named(name, **options), force=force)

    def draw_figures(
        self, folder: PathName, run: str = "latest", *, force: bool = False, **options: Any
    ) -> "DrawnAnalyses":
        """Draw the trajectory and the loops of every sequence into `folder`, with an index as CSV.

        `options` are those of the analysis `trajectory`.
        """
        from ..analysis.option import options_of
        from ..analysis.paths.stored_paths import PathQuestion
        from ..queries.charts.figure_set import write_figures
        from .drawn_analyses import DrawnAnalyses

        drawn = {"umap": "both"} if options.get("umap", "auto") == "auto" else {}
        paths = {one.name: options[one.name] for one in options_of(PathQuestion) if one.name in options}
        trajectory = self.analyze("trajectory", run, force=force, **options | drawn)
        run_id = trajectory.run_id
        topology = self.analyze("topology", run_id, force=force, null_paths=0, **paths)
        written = write_figures(self, run_id, trajectory.analysis_id, topology.analysis_id, Path(folder))
        return DrawnAnalyses((trajectory, topology), str(written.index), written.n_figures, written.n_without_rows)

    def remove_analysis(self, analysis_id: str, *, dry_run: bool = True, now: bool = False) -> "AnalysisRemoval":
        """Take an analysis out: its rows leave all tables at once; `vacuum` frees the bytes (`now`: at once)."""
        from ..lake.analyses import remove_analysis

        return remove_analysis(self, analysis_id, dry_run=dry_run, now=now)

    def import_corevital(
        self,
        reports: Sequence[PathName],
        *,
        tag: str | None = None,
        first_layer: "FirstLayer" = "auto",
        again: bool = False,
        new_only: bool = False,
        on_progress: Callable[[str, int, int], None] = _quietly,
    ) -> "list[ImportedRun]":
        """Import JSON reports of the CoreVital monitor: one run per model, one sequence per report."""
        from ..lake.exchange.corevital.imports import ImportSettings, check_reports, import_reports

        settings = ImportSettings(tag, first_layer, again, new_only)
        checked = check_reports(list(map(Path, reports)), settings, on_progress=on_progress)
        return list(import_reports(self, checked, settings, on_progress=on_progress))

    def import_tsif(
        self, records: Sequence[PathName], *, tag: str | None = None, again: bool = False, new_only: bool = False
    ) -> "list[ImportedRun]":
        """Import step records of token-step fingerprinting: one run per source run, one sequence per prompt."""
        from ..lake.exchange.tsif.imports import TsifSettings, check_records, import_records

        settings = TsifSettings(tag, again, new_only)
        return import_records(self, check_records(list(map(Path, records)), settings), settings)

    def import_labels(self, file: PathName, run: str = "latest", *, name: str | None = None) -> "ImportedLabels":
        """Import verdicts of your own as the table `labels`; the same name replaces."""
        from ..lake.exchange.labels import import_labels

        return import_labels(self, Path(file), run, name=name)

    def export_steps(self, output: PathName, run: str = "latest", *, embedder: str | None = None) -> int:
        """Write one JSON line per generated token, in the layout of token-step fingerprinting; how many it were."""
        from ..lake.exchange.tsif.export import step_lines
        from ..lake.output.files import replaced

        count = 0
        with replaced(Path(output)) as file:
            for line in step_lines(self, self.resolve_run(run), embedder=embedder):
                file.write(line.encode())
                count += 1
        return count

    def export_vectors(
        self,
        output: PathName,
        layer: int,
        site: str = "resid_post",
        run: str = "latest",
        *,
        form: str | None = None,
        where: str | None = None,
        join: Sequence[str] = (),
    ) -> "ExportedVectors":
        """Write the activations of one layer and site as one matrix (npy, safetensors or parquet, by the ending).

        FILE.keys.parquet says which token each row is of. `where` and `join` as in `vectors`.
        """
        from ..lake.exchange.vector_files import export_vectors

        target = Path(output)
        ending = form or target.suffix.removeprefix(".")
        return export_vectors(
            self, run, layer=layer, site=site, form=ending, target=target, where=where, join=tuple(join)
        )  # fmt: skip
