"""The page of a report: one HTML file with its style, script and data, under a policy that allows no network.

Text from a lake reaches the page in two ways only: escaped by the template, or as JSON in an inert script element that
the page's script writes with `textContent`.
"""

import functools
from importlib import resources

import jinja2
import markupsafe

from ...lake.values import Json
from ..charts.chart_file import bundled, json_for_html, policy_for
from ..charts.theme import FONT, Theme
from .figures import packed
from .tokens import Scales, TokenView

_FOLDER = resources.files(__package__ or __name__.rpartition(".")[0])


def render(context: Json, theme: Theme) -> str:
    """The report as HTML text."""
    script = chart_script()
    return _template("report.html.j2").render(
        context, theme=theme, style=style(theme), script=script, policy=policy_for(script)
    )


def token_page(view: TokenView, scale: Scales, texts: dict[int, str], theme: Theme) -> str:
    """The tokens of one sequence as a page of its own, to stand in a frame."""
    script = _text("tokens.js")
    named = {str(token): text for token, text in texts.items()}
    return _template("tokens_page.html.j2").render(
        view=view, scale=scale, texts=named, theme=theme, style=style(theme), script=script, policy=policy_for(script)
    )


def style(theme: Theme) -> str:
    """The style sheet with the colours of a theme as its variables."""
    surprising, undecided = theme.categories[1], theme.categories[0]
    colors = {
        "background": theme.background,
        "text": theme.text,
        "muted": theme.muted,
        "line": theme.grid,
        "accent": theme.categories[0],
        "surprisal": surprising,
        "entropy": undecided,
        "correct": theme.meanings["correct"],
        "wrong": theme.meanings["wrong"],
    }
    variables = "".join(f"--{name}: {value}; " for name, value in colors.items())
    return f":root {{ color-scheme: {theme.name}; --font: {FONT}; {variables}}}\n" + _text("report.css")


@functools.cache
def chart_script() -> str:
    """The chart libraries with the page's own code."""
    return bundled(_text("charts.js") + _text("tokens.js"))


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["packed"] = packed
    environment.filters["json"] = lambda value: markupsafe.Markup(json_for_html(value))
    return environment.get_template(name)


def _text(name: str) -> str:
    return _FOLDER.joinpath(name).read_text(encoding="utf-8")
