"""Cells of a heat map on axes of numbers: where each begins and ends, how large the map is, which words stand along it.

An axis of numbers keeps its gaps and its proportions; an axis of categories would close them. The edges of a cell are
further fields of the inline rows.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import altair as alt

from ...lake.values import Json, Row
from ..header import Header
from .axis_titles import visible
from .theme import Theme

if TYPE_CHECKING:
    import polars

SIDE = 420
"""Pixels of a square map's side; more where words stand along it."""
MOST_LABELS = 60
LONGEST_LABEL = 12
LABEL_MARGIN = 92
"""Pixels beside the map that its words take."""
LEAST_ROOM = 8.5
_LABEL_ROOM = 10.5
"""Pixels that a word needs along its axis."""
BIN_WIDTH = "bin_width"
"""Column of binned rows: the width of their bins along x."""


@dataclass(frozen=True)
class Grid:
    """The cells along one axis; `first` and `last` are the outer edges in the axis's own unit."""

    channel: str
    field: str
    first: float
    last: float
    n_cells: int
    labels: tuple[tuple[float, str], ...] = ()

    @property
    def start(self) -> str:
        """Field of the lower edge of a cell."""
        return f"{self.field} from"

    @property
    def end(self) -> str:
        """Field of the upper edge."""
        return f"{self.field} to"


def grids(header: Header, rows: "polars.DataFrame", room: float | None = None) -> dict[str, Grid]:
    """The axes of numbers along which this chart has cells; words only where `room`, if it is known, is enough."""
    if header.mark != "rect" and not (header.mark == "bar" and header.cell):
        return {}
    channels = [
        channel
        for channel in (("x", "y") if header.mark == "rect" else ("x",))
        if header.channels[channel].type == "quantitative" and rows[header.channels[channel].field].dtype.is_numeric()
    ]
    words = {channel: _labels(channel, header, rows) for channel in channels}
    spans = [max(words["x"]) - min(words["x"]) + 1] if words.get("x") else []
    if room is not None and any(room / span < LEAST_ROOM for span in spans):
        words = dict.fromkeys(words, {})
    if is_square(header):
        # Both axes are of one quantity: a word that only one of them knows belongs to the other too.
        together = {at: word for channel in channels for at, word in words[channel].items()}
        few = all(words.values()) and max(together) - min(together) < MOST_LABELS
        words = dict.fromkeys(channels, together if few else {})
    return {channel: _grid(channel, header, rows, words[channel]) for channel in channels}


def is_square(header: Header) -> bool:
    """Whether both axes have the same span, so that a cell must be as high as it is wide."""
    return all("equal" in header.scales.get(axis, ()) for axis in ("x", "y"))


def _grid(channel: str, header: Header, rows: "polars.DataFrame", words: dict[float, str]) -> Grid:
    field = header.channels[channel].field
    spans = [span for span in _spans(channel, header, rows) if span]
    first, last = min((low for low, _ in spans), default=-0.5), max((high for _, high in spans), default=0.5)
    width = min((high - low for low, high in spans), default=1.0)
    return Grid(channel, field, first, last, max(1, round((last - first) / width)), tuple(sorted(words.items())))


def _spans(channel: str, header: Header, rows: "polars.DataFrame") -> list[tuple[float, float] | None]:
    """The edges of each row's cell: a whole number n alone is from n - 1/2 to n + 1/2."""
    at = rows[header.channels[channel].field]
    whole = at.dtype.is_integer()
    spans: list[tuple[float, float] | None] = []
    for value, width in zip(at.to_list(), _widths(channel, header, rows), strict=True):
        if value is None or value != value:
            spans.append(None)
        else:
            low = value - 0.5 if whole else value - width / 2
            spans.append((low, low + width))
    return spans


def _widths(channel: str, header: Header, rows: "polars.DataFrame") -> list[float]:
    """The width of each row's cell along an axis: that of the bins, or what the header's `cell` names, or 1."""
    given: list[Any] | str | None = header.cell
    if channel == "x" and BIN_WIDTH in rows.columns:
        given = rows[BIN_WIDTH].to_list()
    elif header.cell is not None and header.cell in rows.columns:
        given = rows[header.cell].to_list()
    each = given if isinstance(given, list) else [given] * rows.height
    return [1.0 if width is None else float(width) for width in each]


def with_edges(values: list[Row], found: dict[str, Grid], header: Header, rows: "polars.DataFrame") -> None:
    """Write the edges of each row's cells into its values."""
    for channel, grid in found.items():
        for value, span in zip(values, _spans(channel, header, rows), strict=True):
            value[grid.start], value[grid.end] = span or (None, None)


def _labels(channel: str, header: Header, rows: "polars.DataFrame") -> dict[float, str]:
    """A word per value of the axis, none if there are too many."""
    name = header.labels.get(channel)
    if name is None or BIN_WIDTH in rows.columns:
        return {}
    pairs = rows.select(header.channels[channel].field, name).drop_nulls().unique(keep="first").rows()
    if not pairs or max(at for at, _ in pairs) - min(at for at, _ in pairs) >= MOST_LABELS:
        return {}
    words = {float(at): visible(str(text)) for at, text in pairs}
    return {at: w if len(w) <= LONGEST_LABEL else w[: LONGEST_LABEL - 1] + "\u2026" for at, w in words.items()}


def sizes(found: dict[str, Grid], *, square: bool, width: float, height: float) -> dict[str, float]:
    """Pixels of the map: square where its axes are one quantity, a readable height per cell elsewhere."""
    if square and len(found) == 2:
        cells = max(grid.n_cells for grid in found.values())
        side = max(SIDE, round(cells * _LABEL_ROOM) if any(grid.labels for grid in found.values()) else 0)
        return {"width": side, "height": side}
    wanted: dict[str, float] = {}
    if "x" in found:
        wanted["width"] = max(width, round(found["x"].n_cells * _LABEL_ROOM) if found["x"].labels else 0)
        wanted["width"] = min(wanted["width"], max(160, found["x"].n_cells * 90))
    if "y" in found:
        wanted["height"] = round(found["y"].n_cells * min(34.0, max(6.0, height / found["y"].n_cells)))
    return wanted


def label_layers(found: dict[str, Grid], axes: dict[str, alt.X | alt.Y], theme: Theme) -> list[alt.Chart]:
    """The words along the axes: under the map, and to its right."""
    style: Json = {"font": "monospace", "fontSize": 9, "color": theme.muted, "baseline": "middle"}
    layers = []
    for channel, grid in found.items():
        if not grid.labels:
            continue
        data = alt.Data(values=[{"at": at, "word": word} for at, word in grid.labels])  # type: ignore[call-arg]
        place: Json = {"field": "at", "type": "quantitative"}
        axis: Any = axes[channel].to_dict()
        scale = axis.get("scale")
        if scale:
            place["scale"] = alt.Scale(**scale)
        if channel == "x":
            mark = alt.Chart(data).mark_text(angle=270, align="right", dx=-5, **style)
            encoded = mark.encode(x=alt.X(**place), y=alt.value("height"), text=alt.Text(field="word", type="nominal"))
        else:
            mark = alt.Chart(data).mark_text(align="left", dx=5, **style)
            encoded = mark.encode(y=alt.Y(**place), x=alt.value("width"), text=alt.Text(field="word", type="nominal"))
        layers.append(encoded)
    return layers
