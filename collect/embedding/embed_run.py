"""Step embeddings of a run that was collected without them: batched, resumable, and a look-up the second time."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import polars as pl

from ...lake import Lake
from ...lake.derived import Analysis, input_digest
from ...lake.errors import UsageError
from ..passes import ChunkRows, commit_chunks, rows_of, sequences_with_rows
from .embedder import MINILM, PROMPT, Embedder, Scope, SequenceText, embed_texts

CHUNK_TEXTS = 8192
"""Texts between two commits: what an interruption can cost."""


@dataclass
class Embedded:
    """What a call of `embed_run` did."""

    run_id: str
    embedder: str
    scopes: list[str]
    n_embedded: int = 0
    n_stored: int = 0
    """Rows that were there already."""
    n_truncated: int = 0
    """Of the rows of these scopes, old and new, those whose text the embedder cut."""

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def embed_run(
    lake: Lake,
    run: str,
    *,
    embedder: str | None = None,
    scopes: tuple[str, ...] = ("completion", PROMPT),
    device: str = "cpu",
    on_progress: Callable[[int, int], None] = lambda done, all_texts: None,
) -> Embedded:
    """Add the step embeddings that a run lacks, scope by scope; the model is loaded only if something is missing."""
    parsed = [Scope.parse(name) for name in dict.fromkeys(scopes)]
    run_id = lake.resolve_run(run)
    result = Embedded(run_id, embedder or MINILM, [scope.name for scope in parsed])
    texts = read_texts(lake, run_id)
    if not texts:
        raise UsageError(f"Run {run_id} has no generated tokens: there is no growing text to embed.")
    wanted = [(scope, _missing(lake, run_id, result.embedder, scope, texts)) for scope in parsed]
    n_texts = sum(_n_rows(missing, scope) for scope, missing in wanted)
    model = Embedder(embedder, device) if n_texts else None
    for scope, missing in wanted:
        if missing:
            assert model is not None
            _embed_scope(lake, run_id, scope, missing, model, result, lambda n: on_progress(n, n_texts))
    _count(lake, result)
    return result


def _embed_scope(
    lake: Lake,
    run_id: str,
    scope: Scope,
    missing: list[SequenceText],
    model: Embedder,
    result: Embedded,
    on_progress: Callable[[int], None],
) -> None:
    """Embed and commit chunk by chunk; the last commit says that the scope is whole."""
    digest = input_digest(lake.snapshot(run_id), [("sequences", {}), ("token_steps", {})])
    analysis = Analysis(run_id, "embed", {"embedder": model.name, "scope": scope.name}, digest)

    def compute(chunk: list[SequenceText]) -> ChunkRows:
        embedded = embed_texts(chunk, scope, model)
        if embedded is None:
            return ChunkRows()
        result.n_embedded += len(embedded.vectors)
        call = {"table": "step_embeddings", "columns": embedded.columns, "vectors": embedded.vectors}
        return ChunkRows(vectors=[call | {"dtype": "float32"}])

    commit_chunks(
        lake, analysis, list(_chunks(missing, scope)), compute, n_sequences=len(missing),
        on_chunk=lambda number, chunk: on_progress(result.n_embedded),
    )  # fmt: skip


def read_texts(lake: Lake, run_id: str) -> list[SequenceText]:
    """The texts of all sequences with generated tokens, sorted by id."""
    ends = (
        lake.scan("token_steps", run_id)
        .filter(pl.col("step").is_not_null() & pl.col("char_end").is_not_null())
        .sort("sequence_id", "position")
        .group_by("sequence_id", maintain_order=True)
        .agg("char_end")
    )
    rows = (
        lake.scan("sequences", run_id)
        .select("sequence_id", pl.col("n_prompt_tokens").fill_null(0), pl.col("completion").fill_null(""),
                pl.coalesce("rendered_prompt", "prompt").fill_null("").alias("prompt"))
        .join(ends, on="sequence_id").sort("sequence_id").collect()
    )  # fmt: skip
    names = ("sequence_id", "n_prompt_tokens", "prompt", "completion", "char_end")
    return [SequenceText(*row) for row in rows.select(names).iter_rows()]


def _missing(lake: Lake, run_id: str, embedder: str, scope: Scope, texts: list[SequenceText]) -> list[SequenceText]:
    """Sequences that have no embedding of this scope: a sequence's rows are committed together."""
    only = {"embedder": embedder, "scope": scope.name}
    stored = sequences_with_rows(lake, run_id, "step_embeddings", only)
    return [text for text in texts if text.sequence_id not in stored and _n_rows([text], scope)]


def _n_rows(texts: list[SequenceText], scope: Scope) -> int:
    if scope.name == PROMPT:
        return sum(text.n_prompt_tokens > 0 for text in texts)
    return sum(len(text.char_ends) for text in texts)


def _chunks(texts: list[SequenceText], scope: Scope) -> Iterator[list[SequenceText]]:
    chunk: list[SequenceText] = []
    for text in texts:
        chunk.append(text)
        if _n_rows(chunk, scope) >= CHUNK_TEXTS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _count(lake: Lake, result: Embedded) -> None:
    for scope in result.scopes:
        only = {"embedder": result.embedder, "scope": scope}
        truncated = rows_of(lake, result.run_id, "step_embeddings", only, ["truncated"]).collect()["truncated"]
        result.n_stored += len(truncated)
        result.n_truncated += int(truncated.sum())
    result.n_stored -= result.n_embedded
