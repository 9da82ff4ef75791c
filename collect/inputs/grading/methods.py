"""Which of the two methods of the bundled problems a completion uses."""

import re

from ...tinymath.problems import OPENINGS, Method


def solution_method(completion: str) -> Method | None:
    """Return which of the two methods a completion of `tinymath` begins to use, or None."""
    for method, opening in OPENINGS.items():
        if re.match(rf"\s*{re.escape(opening)} [0-9]+ [+-] [0-9]+", completion):
            return method
    return None
