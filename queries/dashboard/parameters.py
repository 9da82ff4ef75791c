"""Widgets for the parameters of a saved query."""

from typing import Any

import streamlit as st

from ...lake.values import Json
from ..header import Parameter
from ..saved_query import SavedQuery
from .browse import IN_URL

COLUMNS = 3


def parameter_widgets(query: SavedQuery, run: str, runs: list[str], profiles: list[str]) -> dict[str, str]:
    """A widget per parameter, `run` excepted, which the sidebar gives; returns what was entered, as text."""
    given = {"run": run} if "run" in query.parameters else {}
    asked = [parameter for name, parameter in query.parameters.items() if name != "run"]
    columns = st.columns(COLUMNS) if asked else []
    for index, parameter in enumerate(asked):
        with columns[index % COLUMNS]:
            value = _widget(query.name, parameter, runs, profiles)
        if value not in (None, ""):
            given[parameter.name] = str(value)
    return given


def _widget(query: str, parameter: Parameter, runs: list[str], profiles: list[str]) -> Any:
    default = parameter.default or ""
    common: Json = {"help": parameter.doc, "key": f"{query}.{parameter.name}", "bind": IN_URL}
    if parameter.type == "RUN":
        options = ["", *runs]
        return st.selectbox(
            parameter.name, options, index=options.index(default) if default in options else 0, **common
        )
    if parameter.type == "PROFILE":
        return st.selectbox(parameter.name, profiles, index=profiles.index(default or "default"), **common)
    if parameter.type == "BOOLEAN":
        return st.checkbox(parameter.name, default.lower() in ("true", "yes", "1"), **common)
    placeholder = "not given" if not parameter.required else "required"
    return st.text_input(parameter.name, default, placeholder=placeholder, **common)
