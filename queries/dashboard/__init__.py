"""`lake dashboard`: a lake in the browser, served by Streamlit on this machine only. `serve` starts it."""

from .server import serve

__all__ = ["serve"]
