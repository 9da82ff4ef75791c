"""The work items of a run: its prompts as tokens, counted for the plan and handed out segment by segment."""

from collections.abc import Iterator, Mapping
from itertools import islice

from ....lake.errors import ConfigError, UsageError
from ....lake.values import Json, JsonView
from ...inputs.corpora.spool import ItemLengths, Spool
from ...inputs.source import PromptSource
from ...inputs.tokenizing.tokenized import PromptTokenizer, TokenizedPrompt


class WorkItems:
    """Each prompt is tokenised once: for the plan of a new run, or, of a resumed run, as its segments come."""

    def __init__(self, source: PromptSource, tokenizer: PromptTokenizer) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self._spool: Spool | None = None

    def lengths(self) -> ItemLengths:
        """How long every work item is; UsageError if there is none."""
        self._spool = Spool()
        lengths = self._spool.fill(self.source, self.tokenizer.tokenize)
        if len(lengths.prompt) == 0:
            raise UsageError("There are no prompts: the source is empty.")
        return lengths

    def pending(
        self, segments: list[list[int]], committed: frozenset[int], notes: Mapping[int, JsonView]
    ) -> Iterator[tuple[int, list[int], list[TokenizedPrompt]]]:
        """Segments still to be collected, with their work items; the source is read once, in order."""
        prompts = iter(self.source)
        pieces: Iterator[TokenizedPrompt] | None = None
        if self._spool is not None:
            pieces = self._spool.items(prompts)
        elif self.tokenizer.on_long == "split":
            pieces = iter(self.tokenizer.tokenize(prompts))
        for index, bounds in enumerate(segments):
            size = bounds[1] - bounds[0]
            if index in committed:
                # Without pieces each prompt is one work item: what is committed need not be tokenised again.
                next(islice(prompts if pieces is None else pieces, size, size), None)
                continue
            some = self.tokenizer.tokenize(islice(prompts, size)) if pieces is None else islice(pieces, size)
            taken = list(some)
            if len(taken) != size:
                raise ConfigError(
                    "The prompts have changed since the run was planned: some are missing. Start a new run."
                )
            yield index, bounds, taken

    def note(self) -> Json:
        """What a commit says for whoever resumes: nothing, every prompt has its place in the plan."""
        return {}

    def outcome(self) -> Json:
        """What the completion record says: nothing, all segments of the plan are there."""
        return {}

    def remark(self) -> str | None:
        """What is to be said when all is done."""
        return None
