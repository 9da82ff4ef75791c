"""Charts in a notebook without a network: each output is a frame with Vega from the package in it."""

import html
import re
from typing import Any

import altair as alt
import vl_convert

from ...lake.values import Json
from .chart_file import offline_page

RENDERER = "tracelake"
_AROUND = 48
"""Pixels that the page leaves around a chart, and its menu."""


def show_offline() -> None:
    """Make charts show themselves without a network, unless another renderer was chosen."""
    if RENDERER not in alt.renderers.names():
        alt.renderers.register(RENDERER, _mimebundle)
    if alt.renderers.active in ("default", "html"):
        alt.renderers.enable(RENDERER)


def _mimebundle(spec: Json, **_: Any) -> dict[str, str]:
    width, height = _size(spec)
    page = html.escape(offline_page(spec, "chart"), quote=True)
    frame = (
        f'<iframe srcdoc="{page}" width="{width}" height="{height}" style="border: 0; max-width: 100%" '
        'sandbox="allow-scripts allow-downloads allow-popups" title="chart"></iframe>'
    )
    return {"text/html": frame, "text/plain": "<chart>"}


def _size(spec: Json) -> tuple[int, int]:
    """Pixels of the whole picture, measured by drawing it once."""
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    width, height = (float(found[1]), float(found[2])) if found else (700.0, 450.0)
    return round(width) + _AROUND, round(height) + _AROUND
