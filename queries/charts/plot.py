"""The layers, scales and sizes of one chart, made from a header and the shape of its rows."""

import math
from typing import TYPE_CHECKING, Any

import altair as alt

from ...lake.values import Json
from ..header import Encoding, Header
from .axis_titles import are_text, axis_title, category, plain, wrapped
from .grid import LABEL_MARGIN, grids, is_square, label_layers, sizes
from .theme import Theme

if TYPE_CHECKING:
    import polars

WIDTH, HEIGHT = 620, 340
FACET_COLUMNS = 3
_DOTS_UP_TO = 60
"""Lines with at most this many values of x show a dot at each."""
_TICKS = {"x": 10, "y": 8}
_LEANING_UP_TO = 40
"""Categories whose leaning words still have room."""
_LEGEND_WORDS = 34
"""Characters of a category beyond which the legend stands under the chart, where nothing cuts it."""
_LEGEND_ENTRIES = 16
"""Most categories a legend lists, as many as stand beside a chart; the last entry says how many there are."""


class Plot:
    """The layers of one chart, made from a header and the shape of its rows."""

    def __init__(self, header: Header, rows: "polars.DataFrame", theme: Theme, *, room: float | None = None) -> None:
        self.header, self.rows, self.theme = header, rows, theme
        self.mark = header.mark
        self.x, self.y = header.channels["x"], header.channels["y"]
        self.color = header.channels.get("color")
        self.grids = grids(header, rows, room)

    def layers(self) -> list[alt.Chart]:
        """From the back: reference line, band, the marks themselves; error bars stand before their bars."""
        layers = [*self._band(), *([self._joined()] if self.mark == "path" else []), self._main()]
        axes = {name: self._axis(name) for name in self.grids}
        layers = [*self._reference(), *(reversed(layers) if self.mark in ("bar", "point") else layers)]
        return [*layers, *label_layers(self.grids, axes, self.theme)]

    def size(self) -> Json:
        """Width and height in pixels; a step per category on axes of categories."""
        facet = self.header.channels.get("facet")
        share = min(FACET_COLUMNS, self.count(facet)) if facet else 1
        width, height = WIDTH // share - (20 if share > 1 else 0), HEIGHT if share == 1 else 220
        wanted: Json = {"width": width, "height": height}
        if self._discrete(self.x) and self.mark in ("rect", "bar"):
            bars = self.count(self.x) * (self.count(self.color) if self.color and self._side_by_side() else 1)
            wanted["width"] = alt.Step(_clamp(width / bars, 5, 90 if self.mark == "rect" else 64))  # type: ignore[call-arg]
        if self._discrete(self.y):
            wanted["height"] = alt.Step(_clamp(height / max(self.count(self.y), 1), 6, 34))  # type: ignore[call-arg]
        return wanted | sizes(self.grids, square=is_square(self.header), width=width, height=height)

    def count(self, encoding: Encoding) -> int:
        """Distinct values of a field, at least 1."""
        return max(1, self.rows[encoding.field].n_unique())

    def order(self, encoding: Encoding) -> list[Any] | None:
        """Categories in the order of the query's rows."""
        if encoding.type != "nominal":
            return None
        values = self.rows[encoding.field].unique(maintain_order=True).to_list()
        as_text = are_text(values)
        return list(dict.fromkeys(category(value, as_text=as_text) for value in values))

    def _discrete(self, encoding: Encoding) -> bool:
        return encoding.type in ("nominal", "ordinal")

    def _main(self) -> alt.Chart:
        channels = self.header.channels
        encodings: Json = {"x": self._axis("x"), "y": self._axis("y"), "tooltip": self._tooltips()}
        if self.color:
            encodings["color"] = self._color(self.color)
            if self._side_by_side():
                encodings["xOffset"] = self._offset(self.color)
        if "size" in channels:
            size = channels["size"]
            encodings["size"] = alt.Size(field=size.field, type=size.type, title=_title(size))
        if "detail" in channels:
            encodings["detail"] = alt.Detail(field=channels["detail"].field, type=channels["detail"].type)
        for name, grid in self.grids.items():
            encodings[f"{name}2"] = (alt.X2 if name == "x" else alt.Y2)(field=grid.end)
        if self.mark == "line" and self.color and self._discrete(self.color) and 2 <= self.count(self.color) <= 6:
            # Lines that lie on each other: the solid one shows through the gaps of the others.
            encodings["strokeDash"] = self._dashes(self.color)
        if "end" in channels:
            encodings["x2"] = alt.X2(field=channels["end"].field)
        return self._marked(alt.Chart()).encode(**encodings)

    def _joined(self) -> alt.Chart:
        """The line of a path: grey where colour is an amount, which a line cannot change along its way."""
        channels = self.header.channels
        encodings: Json = {"x": self._axis("x"), "y": self._axis("y")}
        for name, channel in (("detail", alt.Detail), ("order", alt.Order)):
            if name in channels:
                encodings[name] = channel(field=channels[name].field, type=channels[name].type)
        style: Json = {"strokeWidth": 1.2, "opacity": 0.55, "point": False}
        if self.color and self._discrete(self.color):
            encodings["color"] = self._color(self.color)
        else:
            style["color"] = self.theme.muted
        return alt.Chart().mark_line(**style).encode(**encodings)

    def _marked(self, chart: alt.Chart) -> alt.Chart:
        style: Json = {} if self.color else {"color": self.theme.categories[0]}
        if self.mark == "line":
            few = self.count(self.x) <= _DOTS_UP_TO
            return chart.mark_line(point=alt.OverlayMarkDef(size=28) if few else False, **style)
        if self.mark == "path":
            crowd = min(1.0, self.rows.height / 500)
            return chart.mark_point(filled=True, size=80 - 60 * crowd, opacity=0.95, **style)
        if self.mark == "point":
            crowd = min(1.0, self.rows.height / 2_000)
            return chart.mark_point(filled=True, size=45 - 33 * crowd, opacity=0.7 - 0.35 * crowd, **style)
        if self.mark == "bar":
            return chart.mark_bar(**style)
        if self.mark == "area":
            return chart.mark_area(opacity=0.8, **style)
        if self.mark == "tick":
            return chart.mark_tick(**style)
        return chart.mark_rect(**style)

    def _axis(self, name: str) -> alt.X | alt.Y:
        encoding = self.header.channels[name]
        axis: Json = {"labelOverlap": True}
        if encoding.type == "quantitative":
            axis["tickCount"] = _TICKS[name]
        if encoding.type == "quantitative" and self.rows[encoding.field].dtype.is_integer():
            axis |= {"tickMinStep": 1, "tickCount": min(_TICKS[name], self._whole_ticks(name, encoding))}
        if encoding.type == "ordinal" or name == "y" or (name == "x" and self.mark == "rect"):
            axis["grid"] = encoding.type == "quantitative"
        if name == "x" and self._discrete(encoding):
            axis |= self._label_angle(encoding)
        grid = self.grids.get(name)
        if grid and grid.labels:
            axis["orient"] = "top" if name == "x" else "left"  # the words have the other side
        binned: Json = {"bin": "binned"} if grid and self.mark == "bar" else {}
        given: Json = binned | {
            "field": grid.start if grid else encoding.field,
            "type": encoding.type,
            "title": _title(encoding),
            "axis": alt.Axis(**axis),
        }
        if scale := self._scale(name, encoding):
            given["scale"] = scale
        if encoding.type != "quantitative" and (sort := self._sort(name, encoding)):
            given["sort"] = sort
        if self.mark in ("bar", "area") and encoding.type == "quantitative" and self._side_by_side():
            given["stack"] = None
        return alt.X(**given) if name == "x" else alt.Y(**given)

    def _whole_ticks(self, name: str, encoding: Encoding) -> int:
        """Most ticks that whole numbers have room for: bars of counts are stacked, so their sums are what is shown."""
        values = self.rows[encoding.field]
        if self.mark == "bar" and name == self._length():
            across = self.header.channels["x" if name == "y" else "y"].field
            values = self.rows.select(across, encoding.field).group_by(across).sum()[encoding.field]
        top = values.max()
        return max(1, int(top)) if isinstance(top, int) and top > 0 else _TICKS[name]

    def _label_angle(self, encoding: Encoding) -> Json:
        """Words of categories lie flat where they fit, else they lean; none is left out."""
        words = [str(shown) for shown in self.order(encoding) or []]
        room = WIDTH / max(1, len(words))
        if self.mark in ("rect", "bar") and not self._side_by_side():
            room = min(room, 64)
        widest = max(map(len, words), default=0) * 6.2
        if encoding.type == "nominal" and len(words) <= _LEANING_UP_TO and widest > room:
            return {"labelAngle": -35, "labelOverlap": False}
        return {"labelAngle": 0}

    def _dashes(self, encoding: Encoding) -> alt.StrokeDash:
        order = self.order(encoding)
        patterns = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 6], [1, 4]]
        scale = alt.Scale(domain=order, range=patterns[: len(order)]) if order else alt.Undefined
        title, legend = self._legend_title(encoding), alt.Legend(**self._legend(encoding))
        return alt.StrokeDash(field=encoding.field, type=encoding.type, title=title, scale=scale, legend=legend)

    def _sort(self, name: str, encoding: Encoding) -> object:
        if "reverse" in self.header.scales.get(name, ()):
            return "descending"
        return self.order(encoding)

    def _scale(self, name: str, encoding: Encoding) -> alt.Scale | None:
        if encoding.type != "quantitative":
            return None
        words = self.header.scales.get(name, ())
        scale: Json = {}
        grid = self.grids.get(name)
        if "reverse" in words:
            scale["reverse"] = True
        if grid:
            return alt.Scale(domain=self._grid_domain(name), nice=False, zero=False, **scale)
        if "log" in words:
            scale |= {"type": "log", "nice": False}
        elif name in ("x", "y"):
            scale["zero"] = "zero" in words or (self.mark in ("bar", "area") and name == self._length())
        elif "zero" in words:
            scale["zero"] = True
        if name == "x" and self.mark in ("line", "area"):
            scale["nice"] = False
        if "diverging" in words:
            scale["domainMid"] = 0
            scale["scheme"] = "blueorange"
        if "equal" in words:
            spans = [self._span(axis) for axis in ("x", "y")]
            scale["domain"] = [min(low for low, _ in spans), max(high for _, high in spans)]
        for word in words:
            if isinstance(word, tuple):
                scale["domain"] = list(word)
        return alt.Scale(**scale) if scale else None

    def _grid_domain(self, name: str) -> list[float]:
        of = list(self.grids.values()) if is_square(self.header) else [self.grids[name]]
        return [min(grid.first for grid in of), max(grid.last for grid in of)]

    def _length(self) -> str:
        """The axis along which bars grow."""
        return "x" if self._discrete(self.y) and not self._discrete(self.x) else "y"

    def _side_by_side(self) -> bool:
        """Vertical bars of shares stand side by side; counts are stacked."""
        return (
            self.mark == "bar"
            and self.header.band is not None
            and self.color is not None
            and self._discrete(self.color)
            and self._discrete(self.x)
        )

    def _offset(self, encoding: Encoding) -> alt.XOffset:
        return alt.XOffset(field=encoding.field, type="nominal", sort=self.order(encoding))

    def _color(self, encoding: Encoding) -> alt.Color:
        given: Json = {"field": encoding.field, "type": encoding.type, "title": self._legend_title(encoding)}
        if legend := self._legend(encoding):
            given["legend"] = alt.Legend(**legend)
        if encoding.type == "nominal":
            categories = self.order(encoding) or []
            meanings = self.theme.meanings
            if categories and all(category in meanings for category in categories):
                given["scale"] = alt.Scale(domain=categories, range=[meanings[str(c)] for c in categories])
            elif len(categories) > len(self.theme.categories):
                given["scale"] = alt.Scale(domain=categories, scheme="viridis")  # colours must not repeat
            else:
                colors = list(self.theme.categories[: len(categories)])
                given["scale"] = alt.Scale(domain=categories, range=colors)
        elif scale := self._scale("color", encoding):
            given["scale"] = scale
        return alt.Color(**given)

    def _legend(self, encoding: Encoding) -> Json:
        legend: Json = {"symbolLimit": _LEGEND_ENTRIES} if self._discrete(encoding) else {}
        if self.mark == "line" and self._discrete(encoding):
            legend |= {"symbolType": "stroke", "symbolSize": 500}
        if self._discrete(encoding) and self._longest_word(encoding) > _LEGEND_WORDS:
            legend |= {"orient": "bottom", "columns": 1, "labelLimit": 0, "titleLimit": 0}
        if "y" in self.grids and self.grids["y"].labels:
            legend["offset"] = LABEL_MARGIN
        return legend

    def _longest_word(self, encoding: Encoding) -> int:
        return max((len(str(plain(value))) for value in self.rows[encoding.field].unique().to_list()), default=0)

    def _legend_title(self, encoding: Encoding) -> str | list[str]:
        return wrapped(_title(encoding), 22)

    def _tooltips(self) -> list[alt.Tooltip]:
        tooltips, encodings = [], {e.field: e for e in self.header.channels.values()}
        for name in self.header.fields:
            column = self.rows[name]
            if column.null_count() == self.rows.height and name not in encodings:
                continue
            title = _title(encodings[name]) if name in encodings else axis_title(name)
            numeric = column.dtype.is_numeric()
            given: Json = {"format": ",d" if column.dtype.is_integer() else ",.4~r"} if numeric else {}
            tooltips.append(
                alt.Tooltip(field=name, type="quantitative" if numeric else "nominal", title=title, **given)
            )
        return tooltips

    def _band(self) -> list[alt.Chart]:
        if self.header.band is None:
            return []
        low, high = self.header.band
        scale = self._scale("y", self.y) or alt.Undefined
        encodings: Json = {
            "x": self._axis("x"),
            "y": alt.Y(field=low, type="quantitative", title=_title(self.y), scale=scale),
            "y2": alt.Y2(field=high),
        }
        if self.mark in ("line", "area"):
            if self.color:
                encodings["color"] = self._color(self.color)
            style: Json = {} if self.color else {"color": self.theme.categories[0]}
            return [alt.Chart().mark_area(opacity=0.16, **style).encode(**encodings)]
        if self._side_by_side() and self.color:
            encodings["xOffset"] = self._offset(self.color)
        return [alt.Chart().mark_rule(color=self.theme.text, strokeWidth=1.5, opacity=0.8).encode(**encodings)]

    def _reference(self) -> list[alt.Chart]:
        if self.header.reference is None:
            return []
        kind, value = self.header.reference
        style: Json = {"color": self.theme.muted, "strokeDash": [4, 4], "strokeWidth": 1}
        if kind == "diagonal":
            low, high = self._common_span()
            ends = alt.Data(values=[{"x": low, "y": low}, {"x": high, "y": high}])  # type: ignore[call-arg]
            line = alt.Chart(ends).mark_line(point=False, **style)
            return [line.encode(x=alt.X(field="x", type="quantitative"), y=alt.Y(field="y", type="quantitative"))]
        one = alt.Chart(alt.Data(values=[{}])).mark_rule(**style)  # type: ignore[call-arg]
        return [one.encode(**{kind: alt.datum(value)})]

    def _common_span(self) -> tuple[float, float]:
        """Where both axes have values: the diagonal must not stretch either."""
        spans = [self._span(name) for name in ("x", "y")]
        if "equal" in self.header.scales.get("x", ()):
            return (min(span[0] for span in spans), max(span[1] for span in spans))
        low, high = max(span[0] for span in spans), min(span[1] for span in spans)
        return (low, max(low, high))

    def _span(self, name: str) -> tuple[float, float]:
        for word in self.header.scales.get(name, ()):
            if isinstance(word, tuple):
                return word
        values = [
            v for v in self.rows[self.header.channels[name].field].to_list() if v is not None and math.isfinite(v)
        ]
        return (min(values), max(values)) if values else (0.0, 1.0)


def _title(encoding: Encoding) -> str:
    return encoding.title or axis_title(encoding.field)


def _clamp(value: float, low: float, high: float) -> float:
    return round(max(low, min(high, value)), 1)
