"""Names proposed while SQL is typed into a box of the dashboard: tables, and columns of the tables that it reads."""

from functools import cache
from importlib.resources import files

from streamlit.components.v2 import component
from streamlit.components.v2.types import ComponentRenderer

from .browse import described_schema

_HTML = '<div class="names" role="group" aria-label="Names that fit: Tab takes the first"></div>'
_CSS = """
.names { min-height: 3.5rem; align-content: flex-start; display: flex; flex-wrap: wrap; gap: 0.3rem; }
.names button {
  font: 0.8rem var(--st-code-font, monospace); padding: 0.1rem 0.5rem; cursor: pointer;
  color: var(--st-text-color); background: var(--st-secondary-background-color);
  border: 1px solid var(--st-border-color, gray); border-radius: 0.4rem;
}
.names button:first-child { border-color: var(--st-primary-color); }
"""


def propose_names(label: str, only: str | None = None) -> None:
    """Names for the box with this label, which must be drawn before; of one table's columns where only those fit."""
    tables = {table["table"]: [column["name"] for column in table["columns"]] for table in described_schema()}
    if only is not None:
        tables = {only: tables[only]}
    _component()(data={"label": label, "tables": tables, "fixed": only is not None}, key=f"names of {label}")


@cache
def _component() -> ComponentRenderer:
    script = (files(__package__) / "proposals.js").read_text(encoding="utf-8")
    return component("tracelake_names", html=_HTML, css=_CSS, js=script)
