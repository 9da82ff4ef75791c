"""The light and the dark look of charts, as Vega-Lite configuration. Knows nothing of data.

Categories use the palette of Okabe and Ito, which stays distinct for colour-blind readers; amounts use viridis.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from ...lake.errors import UsageError, did_you_mean
from ...lake.values import Json

ThemeName = Literal["light", "dark"]

FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"

_BLUE, _VERMILLION, _GREEN, _PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_ORANGE, _SKY, _YELLOW = "#E69F00", "#56B4E9", "#F0E442"


@dataclass(frozen=True)
class Theme:
    """Colours of one look."""

    name: ThemeName
    background: str
    text: str
    muted: str
    grid: str
    categories: tuple[str, ...]
    meanings: dict[str, str]
    """Colours of words that mean the same in every chart."""


# Yellow is invisible on white and comes last on dark; dark takes the lighter half of the palette first.
THEMES = {
    "light": Theme(
        name="light",
        background="#ffffff",
        text="#1f2328",
        muted="#57606a",
        grid="#e6e8eb",
        categories=(_BLUE, _VERMILLION, _GREEN, _PINK, _ORANGE, _SKY, "#6e7781"),
        meanings={
            "correct": _BLUE,
            "wrong": _VERMILLION,
            "ungraded": "#6e7781",
            "prompt": "#6e7781",
            "generated": _BLUE,
            "first token": _ORANGE,
        },
    ),
    "dark": Theme(
        name="dark",
        background="#12161c",
        text="#e6edf3",
        muted="#a3adb8",
        grid="#2b323b",
        categories=(_SKY, _ORANGE, "#1fc79a", _PINK, _YELLOW, "#ff8a3d", "#a3adb8"),
        meanings={
            "correct": _SKY,
            "wrong": "#ff8a3d",
            "ungraded": "#a3adb8",
            "prompt": "#a3adb8",
            "generated": _SKY,
            "first token": _YELLOW,
        },
    ),
}


def theme_called(name: str) -> Theme:
    """The theme of that name; UsageError with the possible ones."""
    if name not in THEMES:
        raise UsageError(f"No theme {name!r}.{did_you_mean(name, get_args(ThemeName))}")
    return THEMES[name]


def configuration(theme: Theme) -> Json:
    """The theme as the `config` of a Vega-Lite chart."""
    axis = {
        "labelColor": theme.muted,
        "titleColor": theme.text,
        "gridColor": theme.grid,
        "domainColor": theme.muted,
        "tickColor": theme.muted,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
        "labelLimit": 180,
    }
    legend = {
        "labelColor": theme.text,
        "titleColor": theme.muted,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "symbolStrokeWidth": 3,
        "symbolOpacity": 1,
        "labelLimit": 240,
    }
    title = {
        "anchor": "start",
        "color": theme.text,
        "fontSize": 16,
        "fontWeight": 600,
        "subtitleColor": theme.muted,
        "subtitleFontSize": 12,
        "subtitlePadding": 6,
        "offset": 16,
    }
    return {
        "font": FONT,
        "background": theme.background,
        "padding": 20,
        "axis": axis,
        "legend": legend,
        "title": title,
        "header": {"labelColor": theme.text, "titleColor": theme.muted, "labelFontSize": 12, "labelFontWeight": 600},
        "view": {"stroke": None},
        "line": {"strokeWidth": 2, "strokeJoin": "round"},
        "range": {
            "category": list(theme.categories),
            "heatmap": {"scheme": "viridis"},
            "ramp": {"scheme": "viridis"},
            "ordinal": {"scheme": "viridis"},
            "diverging": {"scheme": "blueorange"},
        },
    }
