"""The `runs` table: one row per run, derived from run.json, the commit records and the locks; and run resolution."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from .errors import NotFoundError, UsageError, did_you_mean
from .layout import DERIVED_WRITER, Layout
from .locks import held_writers
from .snapshot import RunLog
from .tables.runs import RUNS

_FROM_MODEL = {
    "model": "name",
    "model_revision": "revision",
    **{
        name: name
        for name in (
            "weights_sha256", "tokenizer_sha256", "architecture", "attn_implementation", "quantization",
            "is_encoder_decoder", "n_layers", "n_heads", "d_model", "d_vocab", "dtype", "device",
        )
    },
}  # fmt: skip


def status(log: RunLog, layout: Layout) -> str:
    """running, complete, interrupted, failed or removed."""
    if log.removed:
        return "removed"
    if log.outcome == "complete":
        return "complete"
    if set(held_writers(layout.locks, log.run_id)) - {DERIVED_WRITER}:
        return "running"
    return log.outcome or "interrupted"


def run_row(log: RunLog, layout: Layout) -> dict[str, Any]:
    """One row of `runs`."""
    given, completion, counters = log.run_json, log.completion, log.counters
    model = given.get("model") or {}
    row: dict[str, Any] = {
        "run_id": log.run_id,
        "tag": given.get("tag"),
        "kind": given.get("kind"),
        "status": status(log, layout),
        "created_at": _time(given.get("created_at")),
        "finished_at": _time(completion.time) if completion and log.outcome else None,
        **{column: model.get(key) for column, key in _FROM_MODEL.items()},
        "seed": given.get("seed"),
        "config": _json(given.get("config")),
        "versions": _json(given.get("versions")),
        "n_sequences": counters.get("n_sequences", 0),
        "n_tokens": counters.get("n_tokens", 0),
        "error": completion.error if completion else None,
    }
    return {name: row[name] for name in RUNS.names}


def run_rows(logs: Iterable[RunLog], layout: Layout) -> list[dict[str, Any]]:
    """All rows of `runs`, oldest first."""
    return [run_row(log, layout) for log in sorted(logs, key=created)]


def runs_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of `runs` as an Arrow table with the declared schema."""
    return pa.Table.from_pylist(list(rows), schema=RUNS.schema)


def created(log: RunLog) -> tuple[str, str]:
    """Sort key: time of creation, then id."""
    return (str(log.run_json.get("created_at") or ""), log.run_id)


def resolve(text: str, runs: Sequence[tuple[str, str | None, bool]]) -> str:
    """The run that `text` means, among (id, tag, removed) oldest first: id, `latest`, tag or unique prefix."""
    if any(run_id == text and not removed for run_id, _, removed in runs):
        return text
    present = [(run_id, tag) for run_id, tag, removed in runs if not removed]
    if text == "latest" and present:
        return present[-1][0]
    for what, matches in (
        ("tag", [run_id for run_id, tag in present if tag == text]),
        ("prefix", [run_id for run_id, _ in present if text and run_id.startswith(text)]),
    ):
        if len(matches) > 1:
            raise UsageError(f"The {what} {text!r} means {len(matches)} runs: {', '.join(matches)}. Give one id.")
        if matches:
            return matches[0]
    if any(run_id == text for run_id, _, _ in runs):
        raise NotFoundError(f"Run {text!r} was removed.")
    names = [run_id for run_id, _ in present[::-1]] + [tag for _, tag in present if tag]
    raise NotFoundError(f"There is no run {text!r}.{did_you_mean(text, dict.fromkeys(names))}")


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
