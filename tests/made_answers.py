"""Runs made by hand: sequences with states that a test chooses, written through the real writer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracelake.lake import Lake

N_PROMPT = 2
States = Mapping[tuple[str, int], np.ndarray]


@dataclass(frozen=True)
class Answer:
    """One sequence: `states` are [N_PROMPT + len(tokens), dim] for each (site, layer)."""

    prompt: str
    states: States
    tokens: Sequence[int]
    row: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of `sequences`."""
    steps: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Further columns of `token_steps`, one value per token of the whole sequence."""
    sequence_id: int | None = None


def write_answers(
    lake: Lake, run_id: str, answers: Sequence[Answer], *, n_layers: int = 4, per_segment: int = 50, **run_json: Any
) -> None:
    """Write a complete run of these sequences, in segments of some."""
    about = {"kind": "generate", "model": {"name": "made", "n_layers": n_layers}, **run_json}
    with lake.start_run(run_id, about) as writer:
        for number, start in enumerate(range(0, len(answers), per_segment)):
            some = answers[start : start + per_segment]
            ids = [start + n if one.sequence_id is None else one.sequence_id for n, one in enumerate(some)]
            with writer.segment(number, (start, start + len(some))) as segment:
                segment.append("sequences", _sequences(ids, some))
                segment.append("token_steps", _tokens(ids, some))
                for site, layer in some[0].states:
                    columns, vectors = _vectors(ids, some, (site, layer))
                    segment.append_vectors(
                        "activations", columns=columns, vectors=vectors, dtype="float32", layer=layer, site=site
                    )
        writer.finish()


def _sequences(ids: Sequence[int], answers: Sequence[Answer]) -> dict[str, Any]:
    rows = [
        {
            "sequence_id": sequence_id, "prompt_id": one.prompt, "prompt": one.prompt, "item_id": one.prompt,
            "n_prompt_tokens": N_PROMPT, "n_generated_tokens": len(one.tokens), "finish_reason": "length", **one.row,
        }
        for sequence_id, one in zip(ids, answers, strict=True)
    ]  # fmt: skip
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)}


def _tokens(ids: Sequence[int], answers: Sequence[Answer]) -> dict[str, Any]:
    rows = []
    for sequence_id, one in zip(ids, answers, strict=True):
        for position in range(N_PROMPT + len(one.tokens)):
            step = position - N_PROMPT
            rows.append(
                {
                    "sequence_id": sequence_id, "position": position, "stack": "decoder",
                    "step": step if step >= 0 else None, "is_prompt": step < 0, "is_forced": False,
                    "token_id": one.tokens[step] if step >= 0 else 0, "token": str(position),
                    **{name: values[position] for name, values in one.steps.items()},
                }
            )  # fmt: skip
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)}


def _vectors(
    ids: Sequence[int], answers: Sequence[Answer], place: tuple[str, int]
) -> tuple[dict[str, Any], np.ndarray]:
    lengths = [len(one.states[place]) for one in answers]
    columns = {
        "sequence_id": np.repeat(np.array(ids, np.int64), lengths),
        "position": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        "stack": "decoder",
    }
    return columns, np.concatenate([one.states[place] for one in answers]).astype(np.float32)
