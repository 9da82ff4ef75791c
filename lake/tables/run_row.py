"""A row of the table `runs` as Python has it."""

from datetime import datetime
from typing import TypedDict


class RunRow(TypedDict):
    """The columns of `runs` (`lake/tables/runs.py` says what each means)."""

    run_id: str
    tag: str | None
    kind: str | None
    status: str
    created_at: datetime | None
    finished_at: datetime | None
    model: str | None
    model_revision: str | None
    weights_sha256: str | None
    tokenizer_sha256: str | None
    architecture: str | None
    attn_implementation: str | None
    quantization: str | None
    is_encoder_decoder: bool | None
    n_layers: int | None
    n_heads: int | None
    d_model: int | None
    d_vocab: int | None
    dtype: str | None
    device: str | None
    seed: int | None
    config: str | None
    versions: str | None
    n_sequences: int
    n_tokens: int
    error: str | None
    experiment_id: str | None
    experiment_step: str | None
