"""`lake export steps-jsonl`: generated tokens as records of token-step fingerprinting, one JSON line each.

The layout is that of `phase5_records.jsonl`, but valid JSON: null instead of NaN. Lines come a few sequences at a
time, so memory does not grow with the run.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ...errors import NotFoundError, UsageError, did_you_mean
from ...values import Json

if TYPE_CHECKING:
    from ...lake import Lake
    from ...sql.duck import Connection

SCOPE = "prompt+completion"
PROMPT = "prompt"
"""The scope of the prompt alone: one row per sequence, at its last prompt token."""

PER_BATCH = 64

_SEQUENCES = """
SELECT
    s.sequence_id,
    s.item_id,
    s.prompt,
    coalesce(s.rendered_prompt, s.prompt) AS shown,
    s.completion,
    s.n_prompt_tokens,
    CASE WHEN json_valid(s.metadata) THEN s.metadata ->> '$.bucket' END AS bucket,
    CASE WHEN json_valid(s.metadata) THEN s.metadata ->> '$.source_run_id' END AS source_run_id
FROM sequences AS s
WHERE s.sequence_id BETWEEN $first AND $last
ORDER BY s.sequence_id
"""
_TOKENS = """
SELECT sequence_id, position, step, token, token_id, char_end, coalesce(sampling_logprob, logprob) AS logprob
FROM token_steps
WHERE sequence_id BETWEEN $first AND $last AND step IS NOT NULL
ORDER BY sequence_id, position
"""
_VECTORS = """
SELECT sequence_id, position, vector
FROM step_embeddings
WHERE sequence_id BETWEEN $first AND $last AND scope IN ($scope, $prompt) AND embedder = $embedder
"""
_IMPORTED = """
SELECT sequence_id, step, name, value
FROM imported_metrics
WHERE sequence_id BETWEEN $first AND $last AND name IN ('cos_to_prev', 'cos_to_prompt') AND step IS NOT NULL
"""
Cosines = dict[tuple[int, int], dict[str, float | None]]


def step_lines(lake: "Lake", run_id: str, *, embedder: str | None = None) -> Iterator[str]:
    """One JSON line per generated token of the run, by sequence and step.

    Likelihoods in nats, of the distribution that was sampled from (of the raw one where nothing was sampled). Cosines
    are of the step embeddings of the growing text with its prompt; null where they are not kept.
    """
    model = (lake.run_json(run_id).get("model") or {}).get("name")
    with lake.connect(run=run_id) as connection:
        name = _embedder(connection, embedder)
        ids = [i for (i,) in connection.execute("SELECT sequence_id FROM sequences ORDER BY 1").fetchall()]
        for start in range(0, len(ids), PER_BATCH):
            batch = ids[start : start + PER_BATCH]
            yield from _batch_lines(connection, {"first": batch[0], "last": batch[-1]}, name, (run_id, model))


def _embedder(connection: "Connection", wanted: str | None) -> str | None:
    """The embedder whose vectors give the cosines; NotFoundError or UsageError if that is not clear."""
    rows = connection.execute("SELECT DISTINCT embedder FROM step_embeddings WHERE scope = $1 ORDER BY 1", [SCOPE])
    names = [name for (name,) in rows.fetchall()]
    if wanted is not None and wanted not in names:
        raise NotFoundError(
            f"The run has no step embeddings of {wanted!r} with scope {SCOPE}.{did_you_mean(wanted, names)}"
        )
    if wanted is None and len(names) > 1:
        raise UsageError(f"The run has step embeddings of {', '.join(names)}: choose with --embedder.")
    return wanted or (names[0] if names else None)


def _batch_lines(
    connection: "Connection", bounds: dict[str, int], embedder: str | None, source: tuple[str, str | None]
) -> Iterator[str]:
    sequences = {row[0]: row for row in connection.execute(_SEQUENCES, bounds).fetchall()}
    tokens = connection.execute(_TOKENS, bounds).fetchall()
    cosines = _cosines(connection, bounds, embedder, {i: row[5] or 0 for i, row in sequences.items()})
    for sequence_id, _, step, token, token_id, char_end, logprob in tokens:
        _, item_id, prompt, shown, completion, _, bucket, source_run = sequences[sequence_id]
        text = None if completion is None or char_end is None else shown + completion[:char_end]
        likelihood = None if logprob is None or not np.isfinite(logprob) else logprob
        record: Json = {
            "type": "phase5_step",
            "run_id": source_run or source[0],
            "model_name": source[1],
            "prompt_id": item_id,
            "prompt_text": prompt,
            "bucket": bucket,
            "t": step + 1,
            "token": token,
            "token_id": token_id,
            "logprob": likelihood,
            "surprisal": None if likelihood is None else -likelihood,
            "cos_to_prev": None,
            "cos_to_prompt": None,
        }
        record |= cosines.get((sequence_id, step), {})
        yield json.dumps(record | {"cum_text": text}, ensure_ascii=False, allow_nan=False) + "\n"


def _cosines(
    connection: "Connection", bounds: dict[str, int], embedder: str | None, n_prompt: dict[int, int]
) -> Cosines:
    """Cosines by (sequence, step): of the stored embeddings, or as they were imported."""
    found: Cosines = {}
    if embedder is None:
        for sequence_id, step, name, value in connection.execute(_IMPORTED, bounds).fetchall():
            found.setdefault((sequence_id, step), {})[name] = value
        return found
    place = {**bounds, "scope": SCOPE, "prompt": PROMPT, "embedder": embedder}
    rows = connection.arrow(_VECTORS, place)
    flat = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    keys = zip(rows["sequence_id"].to_pylist(), rows["position"].to_pylist(), strict=True)
    vectors = dict(zip(keys, flat.reshape(max(len(rows), 1), -1)[: len(rows)], strict=True))
    for (sequence, position), vector in vectors.items():
        step = position - n_prompt[sequence]
        if step < 0:
            continue  # the prompt's own
        before = vectors.get((sequence, position - 1)) if step else None
        prompt = vectors.get((sequence, n_prompt[sequence] - 1))
        found[sequence, step] = {"cos_to_prev": _cosine(vector, before), "cos_to_prompt": _cosine(vector, prompt)}
    return found


def _cosine(one: np.ndarray, other: np.ndarray | None) -> float | None:
    if other is None:
        return None
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else None
