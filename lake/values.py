"""Names for what has no fixed shape: what JSON can say, and rows whose columns are known when they are read."""

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]
"""A JSON object: members by name."""
Row = dict[str, Any]
"""One row of a table or of an answer: values by column."""
Columns = dict[str, Any]
"""Rows of a table, column by column: numpy or Arrow arrays, or lists, by name."""
JsonView = Mapping[str, Any]
"""A JSON object, or a row, that is read and not changed."""
