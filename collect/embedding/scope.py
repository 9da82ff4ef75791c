"""Which text is embedded at each step, as a setting; importing this loads no model library."""

import re
from dataclasses import dataclass

from ...lake.errors import UsageError

PROMPT = "prompt"
"""The scope of the prompt alone: one row per sequence, at its last token; cosines to the prompt are taken from it."""


@dataclass(frozen=True)
class Scope:
    """Which text is embedded: all of it, the completion alone, the last N tokens, or the prompt alone."""

    name: str
    window: int | None = None

    @classmethod
    def parse(cls, name: str) -> "Scope":
        """Read `prompt+completion`, `completion`, `window:N` or `prompt`."""
        if name in ("prompt+completion", "completion", PROMPT):
            return cls(name)
        match = re.fullmatch(r"window:([1-9]\d*)", name)
        if match is None:
            raise UsageError(
                f"There is no embedding scope {name!r}. Possible: prompt+completion, completion, window:N, prompt."
            )
        return cls(name, int(match[1]))
