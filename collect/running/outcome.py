"""What became of each sequence: its row in `sequences`, graded, with its text."""

import json

import numpy as np
import pyarrow as pa

from ...lake.values import Json, Row
from ..configuration.config import CollectConfig
from ..decoding.sequence import Sequence
from ..inputs.beginnings import Beginning
from ..inputs.fields import Prompt
from ..inputs.grading import Grader, parse_grader, solution_method
from ..inputs.source import PromptSource
from ..inputs.tokenizing.text import TokenText
from ..inputs.tokenizing.tokenized import TokenizedPrompt
from .rows import TokenColumns


def sequence_row(
    sequence: Sequence, item: TokenizedPrompt, text: str, config: CollectConfig, source: PromptSource
) -> Json:
    """The `sequences` row of one finished sequence, without the run id and the place in the batch."""
    sampling, prompt = config.sampling, item.prompt
    reads = config.max_new_tokens == 0
    begun = prompt.beginning or Beginning()
    chosen = "read" if reads else "greedy" if sampling.greedy else "sampled"
    row: Row = {
        "sequence_id": sequence.sequence_id,
        "prompt_id": prompt.prompt_id,
        "item_id": prompt.item_id,
        "item_offset": item.item_offset,
        "sample": sequence.sample,
        "origin": begun.origin or chosen,
        **_parent(begun),
        "prompt": item.text,
        "rendered_prompt": None if item.rendered == item.text else item.rendered,
        "completion": text,
        "n_prompt_tokens": sequence.n_prompt,
        "n_generated_tokens": len(sequence.generated),
        "finish_reason": sequence.finish_reason,
        "temperature": None if reads else sampling.temperature,
        "top_p": None if reads or sampling.greedy else sampling.top_p,
        "top_k": None if reads or sampling.greedy else sampling.top_k,
        "seed": config.seed,
        "dataset": source.dataset,
        "split": prompt.split or source.split,
        "answer": prompt.answer,
        "next_entropy_bits": sequence.next_entropy_bits,
        "next_topk_ids": sequence.next_topk_ids,
        "next_topk_logprobs": sequence.next_topk_logprobs,
        "metadata": _metadata(item),
    }
    return row if reads and not sequence.generated else row | _graded(text, prompt, parse_grader(config.grader))


def _parent(begun: Beginning) -> Row:
    parent = begun.parent
    if parent is None:
        return {}
    return {
        "parent_run_id": parent.run_id,
        "parent_sequence_id": parent.sequence_id,
        "branch_position": parent.position,
    }


def _metadata(item: TokenizedPrompt) -> str | None:
    """The input's own, and whether a given text had to be tokenised by itself."""
    metadata = {**(item.prompt.metadata or {}), **({"retokenised": True} if item.retokenised else {})}
    return json.dumps(metadata, ensure_ascii=False) if metadata else None


def _graded(text: str, prompt: Prompt, grader: Grader) -> Row:
    graded: Row = {"solution_method": solution_method(text)}
    if prompt.answer is not None:
        grade = grader.grade(text, prompt.answer, prompt.options)
        graded |= {
            "predicted_answer": grade.predicted_answer,
            "correct": grade.correct,
            "label_reason": grade.reason,
            "grader": grader.name(prompt.options),
        }
    return graded


def as_columns(rows: list[Json], schema: pa.Schema) -> dict[str, pa.Array]:
    """Rows of one table as Arrow columns of its declared types."""
    names = [name for name in schema.names if any(name in row for row in rows)]
    return {name: pa.array([row.get(name) for row in rows], schema.field(name).type) for name in names}


def token_columns(
    batch: list[Sequence], items: list[TokenizedPrompt], completions: list[str], text: TokenText
) -> TokenColumns:
    """Ids, display strings and character ends of every token of a batch."""
    ids = [np.concatenate((s.prompt_ids, np.array(s.generated, dtype=np.int64))) for s in batch]
    ends = []
    for sequence, item, completion in zip(batch, items, completions, strict=True):
        known = np.full(1, -1, dtype=np.int32) if item.char_ends is None else item.char_ends
        # What the decoder starts with is in no text: it repeats the value before it.
        ends.append(np.pad(known, (0, sequence.n_prompt - len(known)), mode="edge"))
        ends.append(text.char_ends(sequence.generated, completion, sequence.read_ids))
    flat = np.concatenate(ids)
    return TokenColumns(flat, text.display(flat), np.concatenate(ends).astype(np.int32))
