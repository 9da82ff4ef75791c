"""`lake report`: one run as one HTML page that needs no network. `write_report` makes it."""

from .report import WrittenReport, write_report

__all__ = ["WrittenReport", "write_report"]
