"""The guide's set of pictures: one PNG per sequence and quantity, an index as CSV, and the resolved configuration."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from ...lake.output.files import replace_file
from ..queried_lake import QueriedLake
from ..results.formats import render
from ..saved_query import find
from .chart import NoRowsError, draw
from .chart_file import save

FIGURES = {
    "umap_trajectory": ("trajectory", "trajectory"),
    "trace_surprisal": ("surprisal_trace", None),
    "trace_cos_prompt": ("cosine_to_prompt", "trajectory"),
    "trace_cos_prev": ("cosine_to_previous", "trajectory"),
    "semantic_velocity": ("semantic_velocity", "trajectory"),
    "semantic_curvature": ("semantic_curvature", "trajectory"),
    "persistent_homology": ("persistence_diagram", "topology"),
    "persistence_barcode": ("persistence_barcode", "topology"),
}
"""File ending: the saved query that draws it, and which analysis it reads."""


@dataclass(frozen=True)
class WrittenFigures:
    """What was drawn."""

    index: Path
    n_figures: int
    n_without_rows: int


def write_figures(opened: QueriedLake, run_id: str, trajectory: str, topology: str, folder: Path) -> WrittenFigures:
    """Draw every sequence of an analysis into `folder`; pictures without rows are left out and counted."""
    folder.mkdir(parents=True, exist_ok=True)
    index = opened.query("trajectory_index", run=run_id, analysis=trajectory, topology=topology)
    analyses = {"trajectory": trajectory, "topology": topology}
    drawn, empty = _draw_all(opened, run_id, analyses, index["sequence_id"].to_list(), folder)
    replace_file(folder / "analysis_index.csv", render(index.to_arrow(), "csv"))
    stored = {a.analysis_id: a.parameters for a in opened.analyses(run_id) if a.analysis_id in (trajectory, topology)}
    about = {"run_id": run_id, "collection": opened.run_json(run_id).get("config"), "analyses": stored}
    replace_file(folder / "config.yml", yaml.safe_dump(about, sort_keys=False, allow_unicode=True).encode())
    return WrittenFigures(folder / "analysis_index.csv", drawn, empty)


def _draw_all(
    opened: QueriedLake, run_id: str, analyses: dict[str, str], sequences: list[int], folder: Path
) -> tuple[int, int]:
    drawn = empty = 0
    queries = {ending: (find(name, opened), kind) for ending, (name, kind) in FIGURES.items()}
    with opened.connect(locked=True) as connection:
        for sequence in sequences:
            for ending, (query, kind) in queries.items():
                params = {"run": run_id, "sequence": sequence} | ({"analysis": analyses[kind]} if kind else {})
                try:
                    drawing = draw(query, connection, opened.resolve_run, params=params)
                except NoRowsError:
                    empty += 1
                    continue
                save(drawing.chart, folder / f"seq{sequence:05d}_{ending}.png")
                drawn += 1
    return drawn, empty
