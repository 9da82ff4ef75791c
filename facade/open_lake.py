"""A lake with everything that can be asked of it: rows, saved queries, charts, and analyses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..queries import open_lake

if TYPE_CHECKING:
    from ..analysis.question import Answer


class OpenLake(open_lake.OpenLake):
    """What `tracelake.open` returns."""

    def analyze(
        self, name: str, run: str | Sequence[str] = "latest", *, force: bool = False, **options: Any
    ) -> "Answer":
        """The answer of an analysis (trajectory, topology, compare) about a run, or two: looked up, or computed.

        `options` are the fields of its question, e.g. `site="resid_post", layer=3`.
        """
        from ..analysis.question import ask, question_named

        return ask(self, run, question_named(name, **options), force=force)
