"""The dashboard's server, which Streamlit finds in this file: the page behind its doors."""

from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from tracelake.queries.dashboard.doors import (  # pyright: ignore[reportMissingImports]
    Doors,
    end_with_parent,
)

end_with_parent()
app = App(Path(__file__).with_name("app.py"), middleware=[Middleware(Doors)])
