"""One segment of a run: its work items through the model, its rows into the store."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...lake.schema import TABLES
from ..config import CollectConfig
from ..decoding.loop import BatchDecoder
from ..decoding.sequence import Sequence
from ..decoding.timings import Timings
from ..embedding.embedder import PROMPT, Embedder, Scope, SequenceText, embed_texts
from ..inputs.prompts import PromptSource
from ..inputs.text import TokenText
from ..inputs.tokenized import TokenizedPrompt
from ..models.edits import Edit
from ..observing.observation import ObservedModel
from .outcome import as_columns, sequence_row, token_columns
from .plan import Plan, batches
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
    rows: list[dict[str, Any]] = field(default_factory=list)
    batches: list[list[Sequence]] = field(default_factory=list)
    """The batches of the last segment, with what became of their sequences."""

    def run(self, segment: Any, first_item: int, items: list[TokenizedPrompt]) -> None:
        """Collect all samples of `items`, the first of which is work item `first_item` of the run."""
        self.rows, self.batches = [], []
        lengths = [len(item.ids) for item in items]
        groups = batches(lengths, self.config.samples, self.plan.batch_size, self._group)
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

    def _group(self, length: int) -> Hashable:
        """Prompts of `length` tokens share batches with those of the same group."""
        loaded = self.observed.loaded
        n_encoded = 0 if loaded.encoder is None else length
        n_read = length - n_encoded + len(loaded.start_ids)
        return self.plan.reading.group(n_encoded, n_read, self.config.max_new_tokens)

    def _sequence(self, item: int, sample: int, tokenized: TokenizedPrompt) -> Sequence:
        loaded = self.observed.loaded
        prompt = np.concatenate((tokenized.ids, np.array(loaded.start_ids, dtype=np.int64)))
        n_encoded = 0 if loaded.encoder is None else len(tokenized.ids)
        return Sequence(
            item * self.config.samples + sample, item, sample, prompt, n_encoded=n_encoded, edits=self.edits
        )

    def _run_batch(self, segment: Any, batch: list[Sequence], items: list[TokenizedPrompt]) -> None:
        n_layers = {stack.name: stack.n_layers for stack in self.observed.loaded.stacks}
        rows = BatchRows(segment, self.observed.wishes, batch, n_layers)
        with torch.inference_mode():
            for kind, block in self.decoder.run(batch):
                with self.timings.measure("rows"):
                    rows.add(kind, block)
                self.on_block(len(block.rows) if kind == "states" else 0)
        with self.timings.measure("rows"):
            rows.flush_states()
            completions = [self.text.completion(sequence.generated, sequence.read_ids) for sequence in batch]
            tokens = token_columns(batch, items, completions, self.text)
            rows.write_tokens(tokens)
        for index, (sequence, item, completion) in enumerate(zip(batch, items, completions, strict=True)):
            row = sequence_row(sequence, item, completion, self.config, self.source)
            row |= {"batch_size": len(batch), "batch_index": index}
            if self.embedder is not None:
                row["_char_ends"] = self.text.char_ends(sequence.generated, completion, sequence.read_ids)
            self.rows.append(row)

    def _embed(self, segment: Any, embedder: Embedder) -> None:
        """Embed the growing text of every sequence of the segment, one scope after the other, and each prompt."""
        texts = [
            SequenceText(
                row["sequence_id"],
                row["n_prompt_tokens"],
                row["rendered_prompt"] or row["prompt"],
                row["completion"],
                row.pop("_char_ends"),
            )
            for row in self.rows
        ]
        for name in dict.fromkeys((*self.config.embed_scope, PROMPT)):
            found = embed_texts(texts, Scope.parse(name), embedder)
            if found is not None:
                segment.append_vectors("step_embeddings", columns=found.columns, vectors=found.vectors, dtype="float32")


def operation_columns(timings: Timings, writer: str, segment: int) -> dict[str, Any]:
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
