"""The settings of `tracelake.collect` by name and type, for editors and type checkers."""

from collections.abc import Sequence
from typing import Literal, TypedDict

TextOrMany = str | Sequence[str]


class CollectSettings(TypedDict, total=False):
    """Fields of `CollectConfig`, all optional; its descriptions and docs/cli.md say what each means."""

    model: str
    revision: str | None
    trust_remote_code: bool
    allow_missing: bool
    prompt: TextOrMany
    prompts: str | None
    prompts_format: Literal["auto", "text", "jsonl", "json", "csv", "tsv", "parquet"]
    split_lines: bool
    dataset: str | None
    dataset_path: str | None
    prompt_template: str | None
    corpus: str | None
    tokens: int | None
    text_field: str
    min_chars: int
    document_tokens: int
    pack: int | None
    validation: float
    given: str | None
    branch_from: str | None
    continue_run: str | None
    sequence: int | Sequence[int]
    at: TextOrMany | int | Sequence[int]
    force: str | None
    limit: int | None
    max_new_tokens: int
    keep: TextOrMany
    samples: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    generation_config: bool
    stop: TextOrMany
    stop_when: TextOrMany
    edit: TextOrMany
    grader: str
    chat: Literal["auto", "on", "off"]
    chat_template: str | None
    on_long: Literal["error", "truncate", "split"]
    dtype: Literal["auto", "float32", "float16", "bfloat16"]
    store_dtype: Literal["auto", "float32", "float16", "bfloat16"]
    max_bytes: int | None
    segment_items: int | None
    device: str
    batch_size: int
    tag: str | None
    seed: int
    topk: int
    attn_implementation: str | None
    observe_prompt: bool
    edge_threshold: float
    edge_cap: int
    edge_cap_generated: int
    strict_timings: bool
    embedder: str | None
    embed_scope: TextOrMany
