"""The layers, scales and sizes of one chart, made from a header and the shape of its rows."""

import math
from typing import TYPE_CHECKING, Any

import altair as alt

from .header import Encoding, Header
from .labels import axis_title, plain
from .theme import Theme

if TYPE_CHECKING:
    import polars

WIDTH, HEIGHT = 620, 340
FACET_COLUMNS = 3
_DOTS_UP_TO = 60
"""Lines with at most this many values of x show a dot at each."""
_TICKS = {"x": 10, "y": 8}


class Plot:
    """The layers of one chart, made from a header and the shape of its rows."""

    def __init__(self, header: Header, rows: "polars.DataFrame", theme: Theme) -> None:
        self.header, self.rows, self.theme = header, rows, theme
        self.mark = header.mark
        self.x, self.y = header.channels["x"], header.channels["y"]
        self.color = header.channels.get("color")

    def layers(self) -> list[alt.Chart]:
        """From the back: reference line, band, the marks themselves; error bars stand before their bars."""
        layers = [*self._band(), *([self._joined()] if self.mark == "path" else []), self._main()]
        return [*self._reference(), *(reversed(layers) if self.mark in ("bar", "point") else layers)]

    def size(self) -> dict[str, Any]:
        """Width and height in pixels; a step per category on axes of categories."""
        facet = self.header.channels.get("facet")
        share = min(FACET_COLUMNS, self.count(facet)) if facet else 1
        width, height = WIDTH // share - (20 if share > 1 else 0), HEIGHT if share == 1 else 220
        sizes: dict[str, Any] = {"width": width, "height": height}
        if self._discrete(self.x) and self.mark in ("rect", "bar"):
            sizes["width"] = alt.Step(_clamp(width / max(self.count(self.x), 1), 5, 90 if self.mark == "rect" else 64))  # type: ignore[call-arg]
        if self._discrete(self.y):
            sizes["height"] = alt.Step(_clamp(height / max(self.count(self.y), 1), 6, 34))  # type: ignore[call-arg]
        return sizes

    def count(self, encoding: Encoding) -> int:
        """Distinct values of a field, at least 1."""
        return max(1, self.rows[encoding.field].n_unique())

    def order(self, encoding: Encoding) -> list[Any] | None:
        """Categories in the order of the query's rows."""
        if encoding.type != "nominal":
            return None
        return [plain(value) for value in self.rows[encoding.field].unique(maintain_order=True).to_list()]

    def _discrete(self, encoding: Encoding) -> bool:
        return encoding.type in ("nominal", "ordinal")

    def _main(self) -> alt.Chart:
        channels = self.header.channels
        encodings: dict[str, Any] = {"x": self._axis("x"), "y": self._axis("y"), "tooltip": self._tooltips()}
        if self.color:
            encodings["color"] = self._color(self.color)
            if self._side_by_side():
                encodings["xOffset"] = self._offset(self.color)
        if "size" in channels:
            size = channels["size"]
            encodings["size"] = alt.Size(field=size.field, type=size.type, title=_title(size))
        if "detail" in channels:
            encodings["detail"] = alt.Detail(field=channels["detail"].field, type=channels["detail"].type)
        if "end" in channels:
            encodings["x2"] = alt.X2(field=channels["end"].field)
        return self._marked(alt.Chart()).encode(**encodings)

    def _joined(self) -> alt.Chart:
        """The line of a path: grey where colour is an amount, which a line cannot change along its way."""
        channels = self.header.channels
        encodings: dict[str, Any] = {"x": self._axis("x"), "y": self._axis("y")}
        for name, channel in (("detail", alt.Detail), ("order", alt.Order)):
            if name in channels:
                encodings[name] = channel(field=channels[name].field, type=channels[name].type)
        style: dict[str, Any] = {"strokeWidth": 1.2, "opacity": 0.55, "point": False}
        if self.color and self._discrete(self.color):
            encodings["color"] = self._color(self.color)
        else:
            style["color"] = self.theme.muted
        return alt.Chart().mark_line(**style).encode(**encodings)

    def _marked(self, chart: alt.Chart) -> alt.Chart:
        style: dict[str, Any] = {} if self.color else {"color": self.theme.categories[0]}
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
        axis: dict[str, Any] = {"labelOverlap": True}
        if encoding.type == "quantitative":
            axis["tickCount"] = _TICKS[name]
        if encoding.type == "quantitative" and self.rows[encoding.field].dtype.is_integer():
            axis["tickMinStep"] = 1
        if encoding.type == "ordinal" or name == "y" or (name == "x" and self.mark == "rect"):
            axis["grid"] = encoding.type == "quantitative"
        if name == "x" and self._discrete(encoding):
            axis["labelAngle"] = 0
        given: dict[str, Any] = {
            "field": encoding.field,
            "type": encoding.type,
            "title": _title(encoding),
            "axis": alt.Axis(**axis),
        }
        if scale := self._scale(name, encoding):
            given["scale"] = scale
        if sort := self._sort(name, encoding):
            given["sort"] = sort
        if self.mark in ("bar", "area") and encoding.type == "quantitative" and self._side_by_side():
            given["stack"] = None
        return alt.X(**given) if name == "x" else alt.Y(**given)

    def _sort(self, name: str, encoding: Encoding) -> object:
        if "reverse" in self.header.scales.get(name, ()):
            return "descending"
        return self.order(encoding)

    def _scale(self, name: str, encoding: Encoding) -> alt.Scale | None:
        if encoding.type != "quantitative":
            return None
        words = self.header.scales.get(name, ())
        scale: dict[str, Any] = {}
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
        given: dict[str, Any] = {"field": encoding.field, "type": encoding.type, "title": _title(encoding)}
        if encoding.type == "nominal":
            categories = self.order(encoding) or []
            meanings = self.theme.meanings
            if categories and all(category in meanings for category in categories):
                given["scale"] = alt.Scale(domain=categories, range=[meanings[str(c)] for c in categories])
            else:
                given["sort"] = categories
                if len(categories) > len(self.theme.categories):
                    given["scale"] = alt.Scale(scheme="viridis")  # colours must not repeat
        elif scale := self._scale("color", encoding):
            given["scale"] = scale
        return alt.Color(**given)

    def _tooltips(self) -> list[alt.Tooltip]:
        tooltips, encodings = [], {e.field: e for e in self.header.channels.values()}
        for name in self.header.fields:
            column = self.rows[name]
            if column.null_count() == self.rows.height and name not in encodings:
                continue
            title = _title(encodings[name]) if name in encodings else axis_title(name)
            numeric = column.dtype.is_numeric()
            given: dict[str, Any] = {"format": ",d" if column.dtype.is_integer() else ",.4~r"} if numeric else {}
            tooltips.append(
                alt.Tooltip(field=name, type="quantitative" if numeric else "nominal", title=title, **given)
            )
        return tooltips

    def _band(self) -> list[alt.Chart]:
        if self.header.band is None:
            return []
        low, high = self.header.band
        scale = self._scale("y", self.y) or alt.Undefined
        encodings: dict[str, Any] = {
            "x": self._axis("x"),
            "y": alt.Y(field=low, type="quantitative", title=_title(self.y), scale=scale),
            "y2": alt.Y2(field=high),
        }
        if self.mark in ("line", "area"):
            if self.color:
                encodings["color"] = self._color(self.color)
            style: dict[str, Any] = {} if self.color else {"color": self.theme.categories[0]}
            return [alt.Chart().mark_area(opacity=0.16, **style).encode(**encodings)]
        if self._side_by_side() and self.color:
            encodings["xOffset"] = self._offset(self.color)
        return [alt.Chart().mark_rule(color=self.theme.text, strokeWidth=1.5, opacity=0.8).encode(**encodings)]

    def _reference(self) -> list[alt.Chart]:
        if self.header.reference is None:
            return []
        kind, value = self.header.reference
        style: dict[str, Any] = {"color": self.theme.muted, "strokeDash": [4, 4], "strokeWidth": 1}
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
