"""Saved queries that draw themselves, and ones made of a text."""

from pathlib import PurePath

from tracelake.queries.header import parse_header
from tracelake.queries.saved_query import SavedQuery, saved_queries

CHARTS = {name: query for name, query in saved_queries().items() if query.has_chart}


def query_of(text: str, sql: str) -> SavedQuery:
    """A saved query made in a test: header lines without dashes, and its SELECT."""
    header = "".join(f"-- {line}\n" for line in ("Made in a test.", *text.splitlines()))
    return SavedQuery("made", "lake", PurePath("made.sql"), header + sql, parse_header(header, PurePath("made.sql")))
