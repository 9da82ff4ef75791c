"""The work items of a run over a corpus: contexts, made as their segments come, from where the last commit says.

Nothing is counted beforehand: the plan has as many contexts as the budget allows, and a corpus that ends earlier
completes the run with fewer segments.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import numpy as np

from ....lake.errors import ConfigError, UsageError
from ....lake.values import Json, JsonView
from ...configuration.config import CollectConfig
from ...inputs.corpora.documents import Corpus, open_corpus
from ...inputs.corpora.packing import ContextMaker, Place
from ...inputs.corpora.spool import ItemLengths
from ...inputs.source import PromptSource
from ...inputs.tokenizing.tokenized import PromptTokenizer, TokenizedPrompt
from ...models.model import LoadedModel
from .work_items import WorkItems

NOTE = "corpus"
"""The part of a commit record that says where the next segment begins."""
SAMPLE = 256
"""Documents whose mean length the plan goes by where contexts are not packed."""


class ContextItems:
    """Contexts of one corpus as work items; the same calls as `WorkItems` has."""

    def __init__(self, corpus: Corpus, config: CollectConfig, loaded: LoadedModel) -> None:
        self._config, self._maker = config, _maker(corpus, config, loaded)
        self._behind = Place()
        self._begun = 0
        self._ended = False

    def lengths(self) -> ItemLengths:
        """Tokens of every context that the budget allows; UsageError if the corpus has no document to read."""
        pack = self._maker.pack
        if next(self._maker.contexts(Place()), None) is None:
            raise UsageError(
                f"--corpus {self._config.corpus}: no context of it can be read. Documents need --min-chars "
                f"{self._config.min_chars} characters"
                + (f", a context {pack:,} tokens, and the budget is {self._maker.budget:,}." if pack else ".")
            )
        mean = float(pack or self._maker.mean_length(SAMPLE))
        n_contexts = self._maker.budget // pack if pack else int(np.ceil(self._maker.budget / mean))
        return ItemLengths.of_prompts(np.full(max(1, n_contexts), max(1, round(mean)), np.int64))

    def pending(
        self, segments: list[list[int]], committed: frozenset[int], notes: Mapping[int, JsonView]
    ) -> Iterator[tuple[int, list[int], list[TokenizedPrompt]]]:
        """Segments still to be collected, with their contexts; fewer than planned where the corpus ends."""
        self._begun = len(committed)
        if committed != frozenset(range(self._begun)):
            raise ConfigError("A run over a corpus is collected in order by one writer, and this one has gaps.")
        if committed:
            self._behind = Place.from_json(notes[self._begun - 1][NOTE])
        contexts = self._maker.contexts(self._behind)
        for index in range(self._begun, len(segments)):
            start, stop = segments[index]
            taken = list(islice(contexts, stop - start))
            if not taken:
                break
            self._behind, self._begun = taken[-1][1], index + 1
            yield index, [start, start + len(taken)], [context for context, _ in taken]
        self._ended = self._begun < len(segments)

    def note(self) -> Json:
        """What the commit of the segment at hand says of the next one's beginning."""
        return {NOTE: self._behind.as_json()}

    def outcome(self) -> Json:
        """What the completion record says: how many segments there are after all."""
        return {"n_segments": self._begun}

    def remark(self) -> str | None:
        """What is to be said when all is done."""
        if not self._ended and self._behind.n_tokens >= 0.9 * self._maker.budget:
            return None
        return (
            f"The corpus gave {self._behind.n_tokens:,} of {self._maker.budget:,} tokens "
            f"in {self._behind.n_contexts:,} contexts."
        )


def items_of(
    source: PromptSource, config: CollectConfig, loaded: LoadedModel, notice: Callable[[str], None]
) -> "WorkItems | ContextItems":
    """The work items of a run: contexts of a corpus, or prompts."""
    if config.corpus is not None:
        return ContextItems(open_corpus(config.corpus, config.text_field), config, loaded)
    tokenizer = PromptTokenizer(
        loaded.tokenizer,
        config.chat,
        config.on_long,
        loaded.longest_prompt(generates=config.max_new_tokens > 0),
        config.completes,
        config.chat_template,
        loaded.n_embeddings,
        given_counts=loaded.encoder is None,
    )
    if config.chat == "auto" and tokenizer.uses_template:
        notice("Prompts stand in the model's chat template (--chat off reads them as they are).")
    return WorkItems(source, tokenizer)


def _maker(corpus: Corpus, config: CollectConfig, loaded: LoadedModel) -> ContextMaker:
    """How the corpus is cut for this model; ConfigError for contexts that it cannot read."""
    longest = loaded.longest_prompt(generates=False)
    if config.pack is not None and config.pack > longest:
        raise ConfigError(f"--pack {config.pack:,}: {config.model} reads at most {longest:,} tokens at once.")
    end_id = min(loaded.end_ids) if loaded.end_ids else loaded.tokenizer.eos_token_id
    if config.pack is not None and end_id is None:
        raise ConfigError(f"--pack joins documents by the end token, and {config.model} has none. Leave --pack out.")
    assert config.tokens is not None
    if config.pack is not None and config.tokens < config.pack:
        raise UsageError(f"--tokens {config.tokens:,} is less than one context of {config.pack:,} tokens (--pack).")
    return ContextMaker(
        corpus,
        loaded.tokenizer,
        config.document_tokens if config.pack is not None else min(config.document_tokens, longest),
        config.pack,
        config.on_long == "split",
        config.min_chars,
        config.validation,
        config.tokens,
        loaded.n_embeddings,
        end_id,
    )
