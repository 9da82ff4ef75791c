"""One segment of a run: its work items through the model, its rows into the store."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ...lake.schema import TABLES
from ...lake.values import Columns, Row
from ...lake.writing.segments import SegmentWriter
from ..configuration.config import CollectConfig
from ..decoding.blocks import StateBlock
from ..decoding.loop import BatchDecoder
from ..decoding.reading.reading import Group
from ..decoding.sequence import Sequence
from ..decoding.timings import Timings
from ..embedding.embedder import PROMPT, Embedder, Scope, SequenceText, embed_texts
from ..inputs.beginnings import Parent
from ..inputs.source import PromptSource
from ..inputs.tokenizing.text import TokenText
from ..inputs.tokenizing.tokenized import TokenizedPrompt
from ..models.editing.edits import Edit
from ..observing.observation import ObservedModel
from .outcome import as_columns, sequence_row, token_columns
from .planning.plan import Plan, batches
from .rows import BatchRows


@dataclass
class SegmentRunner:
    """Runs segments of one run; `on_block` is called after every pass with the number of new token rows."""

    observed: ObservedModel
    config: CollectConfig
    plan: Plan
    source: PromptSource
    decoder: BatchDecoder
    text: TokenText
    timings: Timings
    embedder: Embedder | None
    on_block: Callable[[int], None]
    on_batch: Callable[[int], None]
    edits: tuple[Edit, ...] = ()
    rows: list[Row] = field(default_factory=list)
    texts: list[SequenceText] = field(default_factory=list)
    """What is to be embedded of the segment."""
    batches: list[list[Sequence]] = field(default_factory=list)
    """The batches of the last segment, with what became of their sequences; longer where sequences join."""

    def run(self, segment: SegmentWriter, first_item: int, items: list[TokenizedPrompt]) -> None:
        """Collect all samples of `items`, the first of which is work item `first_item` of the run."""
        self.rows, self.batches, self.texts = [], [], []
        self.decoder.forget()
        lengths = [item.n_opening for item in items]
        shared = _shared_parents(items)
        generates, reading = self.config.max_new_tokens > 0, self.plan.reading
        groups = batches(
            lengths, self.config.samples, self.plan.batch_size, lambda i: (self._group(items[i]), shared[i]),
            lambda group: generates and reading.joins(group[0]),
        )  # fmt: skip
        for number, group in enumerate(groups):
            batch = [self._sequence(first_item + i, sample, items[i]) for i, sample in group]
            self.batches.append(batch)
            self._run_batch(segment, batch, [items[i] for i, _ in group])
            self.on_batch(len(groups) - number - 1)
        self.rows.sort(key=lambda row: row["sequence_id"])
        if self.embedder is not None:
            with self.timings.measure("embed"):
                self._embed(segment, self.embedder)
        segment.append("sequences", as_columns(self.rows, TABLES["sequences"].schema))
        n_tokens = sum(row["n_prompt_tokens"] + row["n_generated_tokens"] for row in self.rows)
        segment.count(n_sequences=len(self.rows), n_tokens=n_tokens)

    def _group(self, item: TokenizedPrompt) -> Group:
        """Items of the same group may share batches."""
        loaded = self.observed.loaded
        n_encoded = 0 if loaded.encoder is None else len(item.ids)
        n_read = item.n_opening - n_encoded + len(loaded.start_ids)
        return self.plan.reading.group(n_encoded, n_read, self.config.max_new_tokens)

    def _sequence(self, item: int, sample: int, tokenized: TokenizedPrompt) -> Sequence:
        loaded = self.observed.loaded
        prompt = np.concatenate((tokenized.ids, np.array(loaded.start_ids, dtype=np.int64)))
        n_encoded = 0 if loaded.encoder is None else len(tokenized.ids)
        beginning = tokenized.prompt.beginning
        return Sequence(
            item * self.config.samples + sample, item, sample, prompt, n_encoded=n_encoded, given=tokenized.given,
            edits=self.edits, observed_from=0 if beginning is None else beginning.observed_from,
        )  # fmt: skip

    def _run_batch(self, segment: SegmentWriter, batch: list[Sequence], items: list[TokenizedPrompt]) -> None:
        n_layers = {stack.name: stack.n_layers for stack in self.observed.loaded.stacks}
        rows = BatchRows(segment, self.observed.kept, batch, n_layers)
        with torch.inference_mode():
            for block in self.decoder.run(batch, self.plan.batch_size):
                with self.timings.measure("rows"):
                    rows.add(block)
                self.on_block(len(block.rows) if isinstance(block, StateBlock) else 0)
        with self.timings.measure("rows"):
            rows.flush_states()
            completions = [self.text.completion(sequence.generated, sequence.read_ids) for sequence in batch]
            tokens = token_columns(batch, items, completions, self.text)
            rows.write_tokens(tokens)
        for sequence, item, completion in zip(batch, items, completions, strict=True):
            row = sequence_row(sequence, item, completion, self.config, self.source)
            row |= {"batch_size": sequence.batch_size, "batch_index": sequence.batch_index}
            if self.embedder is not None:
                ends = self.text.char_ends(sequence.generated, completion, sequence.read_ids)
                self.texts.append(sequence_text(row, ends))
            self.rows.append(row)

    def _embed(self, segment: SegmentWriter, embedder: Embedder) -> None:
        """Embed the growing text of every sequence of the segment, one scope after the other, and each prompt."""
        texts = sorted(self.texts, key=lambda text: text.sequence_id)
        for name in dict.fromkeys((*self.config.embed_scope, PROMPT)):
            found = embed_texts(texts, Scope.parse(name), embedder)
            if found is not None:
                segment.append_vectors("step_embeddings", columns=found.columns, vectors=found.vectors, dtype="float32")


def sequence_text(row: Row, char_ends: np.ndarray) -> SequenceText:
    """What is embedded of a sequence, from its row in `sequences`."""
    prompt = row["rendered_prompt"] or row["prompt"]
    return SequenceText(row["sequence_id"], row["n_prompt_tokens"], prompt, row["completion"], char_ends.tolist())


def _shared_parents(items: list[TokenizedPrompt]) -> list[Parent | None]:
    """Of each item the parent that it shares with others of the segment: what they have in common is read once."""
    parents = [None if (begun := item.prompt.beginning) is None else begun.parent for item in items]
    keys = [None if parent is None else (parent.run_id, parent.sequence_id) for parent in parents]
    counts = Counter(keys)
    first = {key: parent for key, parent in zip(reversed(keys), reversed(parents), strict=True)}
    return [first[key] if key is not None and counts[key] > 1 else None for key in keys]


def operation_columns(timings: Timings, writer: str, segment: int) -> Columns:
    """The `operations` rows of what was measured since the last segment."""
    found = timings.take()
    names = sorted(found)
    return {
        "writer": writer,
        "segment": segment,
        "name": names,
        "parent": [found[name].parent for name in names],
        "count": np.array([found[name].count for name in names], dtype=np.int64),
        "total_ms": np.array([found[name].total_ms for name in names]),
        "max_ms": np.array([found[name].max_ms for name in names]),
    }
