"""What `given` may name beside a file: completions that come with the problems, or that the lake holds."""

import re

FORM = re.compile(r"dataset(?::(?P<key>\w+))?|solutions:(?P<written>[^:]+)|run:(?P<run>[^:]+):(?P<share>[0-9.]+)")


def names_stored(given: str) -> bool:
    """Whether a value of `given` names no file."""
    return FORM.fullmatch(given) is not None


def needs_lake(given: str) -> bool:
    """Whether it names a run."""
    return names_stored(given) and not given.startswith("dataset")
