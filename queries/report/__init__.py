"""`lake report`: one run as one HTML page that needs no network. `write_report` makes it."""

from .report import Report, write_report

__all__ = ["Report", "write_report"]
