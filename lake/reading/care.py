"""How carefully files are compared with their records when they are read: a word, typed or in the environment."""

import os

from ..errors import ConfigError, did_you_mean

MODES = ("always", "first", "never")
VARIABLE = "TRACELAKE_VERIFY"


def mode(given: str | None = None) -> str:
    """`given`, or what the environment says, or `first`; ConfigError for another word."""
    chosen = given or os.environ.get(VARIABLE) or "first"
    if chosen not in MODES:
        raise ConfigError(f"{VARIABLE} (or --verify) is {chosen!r}.{did_you_mean(chosen, MODES)}")
    return chosen
