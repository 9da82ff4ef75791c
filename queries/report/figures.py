"""Charts of saved queries as a page embeds them: as wide as the page, their rows packed into columns."""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..charts.chart import Shape, build
from ..charts.chart_rows import chart_rows
from ..saved_query import SavedQuery, find
from .tokens import cut, short

if TYPE_CHECKING:
    import polars

    from ...lake.sql.duck import Connection

AROUND = 105
COLUMN = Shape(text_width=430)
"""A column of a page is at least this wide, so titles break there."""
Spec = dict[str, Any]
"""A Vega-Lite chart as `Chart.to_dict` returns it."""


class Figure(NamedTuple):
    """A chart, and the command that draws it again."""

    spec: Spec
    command: str

    @property
    def space(self) -> int:
        """Pixels to keep free until the chart is drawn, so that the page does not move: its plot, title and axis."""
        height = self.spec.get("height", 0)
        return AROUND + (int(height) if isinstance(height, int | float) else 0)


class Figures:
    """Draws saved queries over one run in one look."""

    def __init__(self, connection: "Connection", run_id: str, theme: str) -> None:
        self.connection, self.run_id, self.theme = connection, run_id, theme

    def draw(self, name: str, **params: Any) -> Figure | None:
        """The chart of one of the package's saved queries; None where it has no rows."""
        query = _own_query(name)
        values = query.bind(self.connection, {"run": self.run_id, **params})
        drawn = chart_rows(query, self.connection, values)
        if drawn.rows.height == 0:
            return None
        given = [f"{key} {value}" for key, value in params.items()]
        subtitle = " \u00b7 ".join([f"run {self.run_id}", *given])
        notes = [subtitle, *([drawn.message] if drawn.message else [])]
        spec = chart_spec(drawn.query, drawn.rows, self.theme, notes)
        command = f"lake chart {name} --run {self.run_id}" + "".join(f" --param {k}={v}" for k, v in params.items())
        padding = {side: 4 for side in ("left", "right", "top", "bottom")}
        spec["config"] = spec.get("config", {}) | {"padding": padding}
        return Figure(full_width(spec), command)


@functools.cache
def _own_query(name: str) -> SavedQuery:
    return find(name)


def chart_spec(
    query: SavedQuery, rows: "polars.DataFrame", theme: str, notes: Sequence[str] = (), *, shape: Shape | None = None
) -> Spec:
    """The Vega-Lite chart of a saved query's rows, unchecked: Altair takes most of its time to check what it built."""
    return build(query, rows, theme=theme, notes=notes, shape=shape or COLUMN).to_dict(validate=False)


def full_width(spec: Spec) -> Spec:
    """The chart as wide as the element that holds it; charts of many panels keep their size."""
    if "facet" in spec or is_square(spec):
        return spec
    height = spec.get("height")
    if isinstance(height, dict):
        # Vega-Lite cannot fit a width beside a height in steps without a warning.
        field = next(layer["encoding"]["y"]["field"] for layer in spec["layer"] if "field" in layer["encoding"]["y"])
        height = height["step"] * len({row[field] for row in spec["data"]["values"]})
    return spec | {"width": "container", "height": height}


def is_square(spec: Spec) -> bool:
    """Whether the chart's proportions mean something, so that it keeps its own size."""
    return isinstance(spec.get("width"), int | float) and spec["width"] == spec.get("height")


def with_rule(spec: Spec, x: float, label: str, color: str) -> Spec:
    """The chart with a vertical line at `x`, and a word beside it: where a completion begins, for example."""
    place = {"x": {"datum": x, "type": "quantitative"}}
    rule = {"mark": {"type": "rule", "color": color, "strokeDash": [4, 4]}, "encoding": place}
    text = {"type": "text", "align": "left", "dx": 5, "dy": 5, "text": label, "color": color, "fontSize": 11}
    words = {"mark": text, "encoding": place | {"y": {"value": 0}}}
    layers = [{"data": {"values": [{}]}, **layer} for layer in (rule, words)]
    return spec | {"layer": [*spec["layer"], *layers]}


def with_legend_above(spec: Spec) -> Spec:
    """The chart with its colour legend over it: charts under each other then share their columns."""
    legend = {"orient": "top", "titleOrient": "left", "gradientThickness": 10, "gradientLength": 220}
    legend |= {"titleLimit": 400, "titlePadding": 10}
    layers = []
    for layer in spec["layer"]:
        encoding = layer.get("encoding", {})
        if "color" in encoding:
            encoding = encoding | {"color": encoding["color"] | {"legend": legend}}
        layers.append(layer | {"encoding": encoding})
    return spec | {"layer": layers}


def packed(spec: Spec) -> Spec:
    """Inline rows as one list per column, which the page's script turns back: a third of the size."""
    values = spec.get("data", {}).get("values") or []
    names = list(values[0]) if values else []
    columns = {name: [_small(row[name]) for row in values] for name in names}
    return spec | {"data": {"columns": columns}}


def _small(value: object) -> object:
    """A value in fewer characters: four digits, and of a long text its beginning."""
    if isinstance(value, str):
        return cut(value)
    return short(value) if isinstance(value, float) and math.isfinite(value) else value
