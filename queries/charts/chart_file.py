"""A chart as a file: PNG, SVG, PDF, JSON, or one HTML page that works without network and runs no code from data."""

import base64
import functools
import hashlib
import html
import json
from collections.abc import Callable
from pathlib import Path

import vl_convert

from ...lake.errors import NotFoundError, UsageError
from ...lake.output.files import replace_file
from .chart import AnyChart, themed
from .theme import theme_called

PNG_SCALE = 2.0

# Draws every spec of the page into the element before it. `ast` makes Vega interpret its expressions, so that the
# page's policy can forbid evaluating code.
_START = """
for (const node of document.querySelectorAll("script.chart-spec")) {
  vegaEmbed(node.previousElementSibling, JSON.parse(node.textContent), {
    mode: "vega-lite", renderer: "svg", ast: true,
    actions: {export: true, source: false, compiled: false, editor: false},
  });
}
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="__POLICY__">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>__TITLE__</title>
<style>body { margin: 0; padding: 16px; background: __BACKGROUND__; }</style>
</head>
<body>
<div class="chart"></div>
<script type="application/json" class="chart-spec">__SPEC__</script>
<script>__SCRIPT__</script>
</body>
</html>
"""


def save(chart: AnyChart, path: str | Path, *, theme: str | None = None, scale: float = PNG_SCALE) -> None:
    """Write the chart in the format of the suffix, replacing the file in one step.

    `theme` gives it another look; `scale` is pixels of a PNG per pixel of the chart.
    """
    target = Path(path)
    check_target(target)
    spec = (themed(chart, theme_called(theme)) if theme else chart).to_dict(validate=False)
    if target.suffix.lower() == ".png":
        replace_file(target, vl_convert.vegalite_to_png(spec, scale=scale, allowed_base_urls=[]))
        return
    replace_file(target, _FORMATS[target.suffix.lower()](spec))


def check_target(target: Path) -> None:
    """UsageError for an ending that is no format, NotFoundError for a folder that is not there."""
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"Cannot write a chart to {str(target)!r}: the suffix {target.suffix!r} is not one of "
            f"{', '.join(SUFFIXES)}. Choose one of them."
        )
    if not target.parent.is_dir():
        raise NotFoundError(f"Cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist.")


def offline_page(spec: dict, title: str) -> str:
    """A self-contained page of one Vega-Lite spec: no network, two script elements, data in the inert one."""
    parts = {
        "__POLICY__": content_policy(),
        "__TITLE__": html.escape(title),
        "__BACKGROUND__": html.escape(str(spec.get("config", {}).get("background", "#ffffff"))),
        "__SPEC__": json_for_html(spec),
        "__SCRIPT__": chart_script(),
    }
    # In one pass over the template: a value that contains a mark must not be replaced in turn.
    page, rest = "", _PAGE
    for mark, value in parts.items():
        before, rest = rest.split(mark)
        page += before + value
    return page + rest


def json_for_html(value: object) -> str:
    """JSON that can stand in a script element: no `<` that could close it or open another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@functools.cache
def content_policy() -> str:
    """The policy of a page whose only script is `chart_script`."""
    return policy_for(chart_script())


def policy_for(script: str) -> str:
    """A policy that allows one script by its hash, inline styles, and nothing else: no network at all."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@functools.cache
def chart_script() -> str:
    """Vega, Vega-Lite, Vega-Embed and the start of the charts as one script, safe inside a script element."""
    return bundled(_START)


def bundled(start: str) -> str:
    """Vega, Vega-Lite and Vega-Embed with a script that uses them, as one script, safe inside a script element."""
    script = vl_convert.javascript_bundle(start)
    assert "</script" not in script.lower() and "<!--" not in script
    return script


def _svg(spec: dict) -> bytes:
    return vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]).encode()


def _pdf(spec: dict) -> bytes:
    return vl_convert.vegalite_to_pdf(spec, allowed_base_urls=[])


def _html(spec: dict) -> bytes:
    title = spec.get("title", "chart")
    text = title.get("text", "chart") if isinstance(title, dict) else title
    return offline_page(spec, " ".join(text) if isinstance(text, list) else str(text)).encode()


def _json(spec: dict) -> bytes:
    return (json.dumps(spec, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


_FORMATS: dict[str, Callable[[dict], bytes]] = {".svg": _svg, ".pdf": _pdf, ".html": _html, ".json": _json}
SUFFIXES = (".png", *_FORMATS)
