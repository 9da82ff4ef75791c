"""Charts of trajectories: every saved query of this part draws, and the new words of headers do what they say."""

from collections.abc import Iterator

import pytest
from hand_made_lake import RUN, connection_to, frames

from tracelake.lake.sql.duck import Connection
from tracelake.queries.charts.chart import draw
from tracelake.queries.charts.figure_set import FIGURES
from tracelake.queries.saved_query import find

CHARTS = (
    "trajectory", "shared_trajectories", "cosine_to_prompt", "cosine_to_previous", "semantic_velocity",
    "semantic_curvature", "persistence_diagram", "persistence_barcode", "loops_against_chance", "path_profiles",
    "path_comparison", "trajectory_correlations",
)  # fmt: skip


@pytest.fixture(scope="module")
def full() -> Iterator[Connection]:
    with connection_to(frames()) as connection:
        yield connection


def layers(full: Connection, name: str, **params: object) -> tuple[dict, list[dict]]:
    spec = draw(find(name), full, params=params).chart.to_dict()
    inner = spec.get("spec", spec)
    return spec, inner["layer"]


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_draws(full: Connection, name: str) -> None:
    drawing = draw(find(name), full)
    assert drawing.message is None and drawing.chart.to_dict()["data"]["values"]


def test_figures_name_queries_with_charts() -> None:
    assert all(find(name).has_chart for name, _ in FIGURES.values())


def test_a_path_is_a_line_in_its_order_under_its_points(full: Connection) -> None:
    _, (line, points) = layers(full, "trajectory", sequence=3)
    assert line["mark"]["type"] == "line" and line["encoding"]["order"]["field"] == "position"
    assert "color" not in line["encoding"] and points["encoding"]["color"]["field"] == "step"
    assert {"token", "text_so_far"} <= {t["field"] for t in points["encoding"]["tooltip"]}
    _, (line, _) = layers(full, "shared_trajectories")
    assert line["encoding"]["detail"]["field"] == "sequence_id" and line["encoding"]["color"]["field"] == "kind"


def test_bars_have_another_end_and_panels_a_scale_of_their_own(full: Connection) -> None:
    _, (bars,) = layers(full, "persistence_barcode")
    assert bars["encoding"]["x2"]["field"] == "death"
    spec, _ = layers(full, "path_profiles")
    assert spec["resolve"]["scale"] == {"y": "independent"}


def test_equal_axes_span_the_same(full: Connection) -> None:
    spec, drawn = layers(full, "persistence_diagram")
    x, y = (drawn[-1]["encoding"][axis]["scale"]["domain"] for axis in ("x", "y"))
    values = [row[name] for row in spec["data"]["values"] for name in ("birth", "death")]
    assert x == y == [min(values), max(values)]
    line = drawn[0]["data"]["values"]
    assert [point["x"] for point in line] == [point["y"] for point in line] == x


def test_an_analysis_of_all_sequences_comes_before_a_newer_one_of_some(full: Connection) -> None:
    assert find("path_profiles").run(full, run=RUN)["sequences"].max() > 2
    assert find("trajectory_index").run(full, run=RUN).height == 16
    assert find("trajectory_index").run(full, run=RUN, analysis="none-such").height == 0
