"""A lake with everything that can be asked of it: rows, saved queries, charts, and analyses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..queries.queried_lake import QueriedLake

if TYPE_CHECKING:
    from ..analysis.question import Answer
    from ..lake.analyses import AnalysisRemoval


@dataclass(frozen=True)
class DrawnAnalyses:
    """Pictures of a run's paths: the analyses that they show, and where they are."""

    answers: tuple["Answer", ...]
    index: str
    """CSV file with one row per sequence."""
    n_figures: int
    n_without_rows: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the answers left out."""
        return {"index": self.index, "n_figures": self.n_figures, "n_without_rows": self.n_without_rows}


class OpenLake(QueriedLake):
    """What `tracelake.open` returns."""

    def analyze(
        self, name: str, run: str | Sequence[str] = "latest", *, force: bool = False, **options: Any
    ) -> "Answer":
        """The answer of an analysis (`lake analyze --help` lists them) about a run, or several: looked up, or computed.

        `options` are the fields of its question, e.g. `site="resid_post", layer=3`.
        """
        from ..analysis.question import ask, question_named

        return ask(self, run, question_named(name, **options), force=force)

    def draw_figures(
        self, folder: str | Path, run: str = "latest", *, force: bool = False, **options: Any
    ) -> DrawnAnalyses:
        """Draw the trajectory and the loops of every sequence into `folder`, with an index as CSV.

        `options` are those of the analysis `trajectory`.
        """
        from ..analysis.option import options_of
        from ..analysis.paths import PathQuestion
        from ..queries.charts.figure_set import write_figures

        drawn = {"umap": "both"} if options.get("umap", "auto") == "auto" else {}
        paths = {one.name: options[one.name] for one in options_of(PathQuestion) if one.name in options}
        trajectory = self.analyze("trajectory", run, force=force, **options | drawn)
        topology = self.analyze("topology", trajectory.run_id, force=force, null_paths=0, **paths)
        written = write_figures(
            self, trajectory.run_id, trajectory.analysis_id, topology.analysis_id, Path(folder)
        )  # fmt: skip
        return DrawnAnalyses((trajectory, topology), str(written.index), written.n_figures, written.n_without_rows)

    def remove_analysis(self, analysis_id: str, *, dry_run: bool = True, now: bool = False) -> "AnalysisRemoval":
        """Take an analysis out: its rows leave all tables at once; `vacuum` frees the bytes (`now`: at once)."""
        from ..lake.analyses import remove_analysis

        return remove_analysis(self, analysis_id, dry_run=dry_run, now=now)
