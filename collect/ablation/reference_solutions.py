"""The problems of a run with their reference solutions as tokens: what a model should have gone on with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.errors import ConfigError, NotFoundError, did_you_mean
from ...lake.values import JsonView
from ..inputs.grading import Options, read_options
from ..stored_sequences import stored_sequences

NEITHER = "no reference solution and no answer"


@dataclass(frozen=True, eq=False)
class Problem:
    """One prompt of a run; `reference` is empty where there is neither solution nor answer."""

    sequence_id: int
    prompt_ids: np.ndarray
    reference: tuple[int, ...]
    answer: str | None
    options: Options | None


@dataclass
class Problems:
    """The problems of a run in the order of their sequences, and what a reader must know of them."""

    problems: list[Problem]
    notices: list[str] = field(default_factory=list)


def read_problems(
    lake: Lake, run_id: str, tokenizer: Any, *, oracle: str | None = None, limit: int | None = None
) -> Problems:
    """Each prompt once, with the solution called `oracle` (the first if None), else the reference answer.

    ConfigError if no problem has either; NotFoundError for a solution that none has.
    """
    wanted = ["sequence_id", "prompt_id", "prompt", "rendered_prompt", "answer", "metadata"]
    rows = lake.scan("sequences", run_id).select(wanted).sort("sequence_id").collect()
    rows = rows.unique("prompt_id", keep="first", maintain_order=True).sort("sequence_id")
    rows = rows if limit is None else rows.head(limit)
    if not rows.height:
        raise NotFoundError(f"Run {run_id} has no sequences.")
    metadata = [json.loads(text) if text else {} for text in rows["metadata"]]
    names = _names(metadata)
    if oracle is not None and oracle not in names:
        raise NotFoundError(f"No problem of run {run_id} has a solution {oracle!r}.{did_you_mean(oracle, names)}")
    texts = [
        _solution(about, oracle) or answer for about, answer in zip(metadata, rows["answer"], strict=True)
    ]  # fmt: skip
    if not any(texts):
        raise ConfigError(
            f"The problems of run {run_id} have neither a reference solution nor an answer: there is nothing to "
            "measure a loss on. Collect a problem set (--dataset), or prompts with an `answer`."
        )
    prompts = {one.sequence_id: one.prompt_ids for one in stored_sequences(lake, run_id, rows["sequence_id"].to_list())}
    problems = []
    for row, about, text in zip(rows.iter_rows(named=True), metadata, texts, strict=True):
        ids = prompts[row["sequence_id"]]
        shown = row["rendered_prompt"] or row["prompt"] or ""
        reference = _continued(tokenizer, shown, ids, text) if text else ()
        problems.append(Problem(row["sequence_id"], ids, reference, row["answer"], _options(about)))
    return Problems(problems, _notices(rows, texts, names, oracle))


def _names(metadata: Sequence[JsonView]) -> list[str]:
    """Names of the solutions that problems have, in their order."""
    return list(dict.fromkeys(name for about in metadata for name in _solutions(about)))


def _solutions(about: JsonView) -> Mapping[str, str]:
    solutions = about.get("oracle")
    return solutions if isinstance(solutions, dict) else {}


def _solution(about: JsonView, oracle: str | None) -> str | None:
    solutions = _solutions(about)
    return solutions.get(oracle) if oracle is not None else next(iter(solutions.values()), None)


def _options(about: JsonView) -> Options | None:
    given = about.get("options")
    try:
        return None if given is None else read_options(given)
    except ValueError:
        return None  # metadata of the user's own that is called so


def _continued(tokenizer: Any, prompt: str, prompt_ids: np.ndarray, text: str) -> tuple[int, ...]:
    """The ids of a text as the completion of a prompt; those of the text alone where both together read otherwise.

    A word's space is part of its token: without one between prompt and text the model would never have written it so.
    """
    joined = text if prompt.endswith(tuple(" \t\n")) or text.startswith(tuple(" \t\n")) else f" {text}"
    n, own = len(prompt_ids), prompt_ids.tolist()
    for adds in (True, False):
        ids = tokenizer(prompt + joined, add_special_tokens=adds, verbose=False)["input_ids"]
        if list(ids[:n]) == own and len(ids) > n:
            return _without_end(tokenizer, ids[n:])
    return _without_end(tokenizer, tokenizer(joined, add_special_tokens=False, verbose=False)["input_ids"])


def _without_end(tokenizer: Any, ids: Sequence[int]) -> tuple[int, ...]:
    """Without an end token that the tokenizer adds itself."""
    kept = list(ids)
    while kept and kept[-1] == tokenizer.eos_token_id:
        kept.pop()
    return tuple(kept)


def _notices(rows: pl.DataFrame, texts: Sequence[str | None], names: Sequence[str], oracle: str | None) -> list[str]:
    notices = []
    if oracle is None and len(names) > 1:
        notices.append(f"The loss is that of the solution `{names[0]}`; there are also: {', '.join(names[1:])}.")
    if not names:
        notices.append("The problems have no reference solution: the loss is that of the reference answer.")
    if missing := sum(not text for text in texts):
        notices.append(f"{missing:,} of {rows.height:,} problems have {NEITHER}: they have no loss.")
    return notices
