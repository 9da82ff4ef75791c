"""Which position of each stored sequence an experiment looks at, and the sequences read up to there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.errors import NotFoundError
from ..decoding import sequence as decoding
from ..stored_sequences import stored_sequences

PROMPT, ANSWER = "prompt", "answer"


@dataclass(frozen=True)
class Target:
    """A sequence and the position T in it."""

    sequence_id: int
    position: int


def choose_targets(lake: Lake, run_id: str, at: str) -> tuple[list[Target], list[str]]:
    """The last prompt token of each sequence, or the last answer token (the end token is none), and what to know.

    At the prompt, samples of one prompt are the same state: the first of them stands for all.
    """
    rows = (
        lake.scan("sequences", run_id)
        .select("sequence_id", "prompt_id", "n_prompt_tokens", "n_generated_tokens", "finish_reason")
        .sort("sequence_id")
        .collect()
    )
    if not rows.height:
        raise NotFoundError(f"Run {run_id} has no sequences.")
    notices: list[str] = []
    if at == PROMPT:
        first = rows.unique("prompt_id", keep="first", maintain_order=True)
        if first.height < rows.height:
            notices.append(f"{rows.height:,} sequences are samples of {first.height:,} prompts: each counts once.")
        return [Target(s, n - 1) for s, n in first.select("sequence_id", "n_prompt_tokens").rows()], notices
    ended = (pl.col("finish_reason") == "eos").cast(pl.Int32).fill_null(0)
    length = rows.with_columns(n_answer=pl.col("n_generated_tokens").fill_null(0) - ended)
    some = length.filter(pl.col("n_answer") > 0)
    if not some.height:
        raise NotFoundError(f"Run {run_id} has no answers: it generated no tokens. Use --at prompt.")
    if some.height < rows.height:
        notices.append(f"{rows.height - some.height:,} sequences have no answer token and are left out.")
    ends = some.select("sequence_id", pl.col("n_prompt_tokens") + pl.col("n_answer") - 1)
    return [Target(sequence_id, position) for sequence_id, position in ends.rows()], notices


def cut_sequences(lake: Lake, run_id: str, targets: Sequence[Target]) -> list[decoding.Sequence]:
    """The sequences up to their targets, which become their last tokens."""
    ends = {target.sequence_id: target.position + 1 for target in targets}
    sequences = stored_sequences(lake, run_id, list(ends)) if ends else []
    for one in sequences:
        end = ends[one.sequence_id]
        one.prompt_ids, one.given = _cut(one, end)
        one.begin()
    return sequences


def _cut(one: decoding.Sequence, end: int) -> tuple[np.ndarray, tuple[int, ...]]:
    return one.prompt_ids[:end], one.given[: max(0, end - one.n_prompt)]
