"""A run's head in a report: its model, counts and settings, in words and numbers."""

import json
import math
from typing import TYPE_CHECKING

from ...lake.values import Json, Row
from ..charts.axis_titles import visible
from ..saved_query import find

if TYPE_CHECKING:
    from ...lake.sql.duck import Connection

LONGEST_VALUE = 200
_Z = 1.96


def run_row(connection: "Connection", run_id: str) -> Row:
    """The row of `runs`."""
    return connection.arrow("SELECT * FROM runs WHERE run_id = $run", {"run": run_id}).to_pylist()[0]


def overview(connection: "Connection", run_id: str) -> Json:
    """The row of saved query `run_overview`."""
    return find("run_overview").run(connection, run=run_id).to_dicts()[0]


def tiles(found: Json) -> list[dict[str, str]]:
    """The numbers at the top of a report: name, value and a note each."""
    shown = [
        _tile("sequences", _count(found["sequences"]), f"{_count(found['prompts'])} prompts"),
        _tile("generated tokens", _count(found["generated_tokens"]), f"{_count(found['prompt_tokens'])} prompt tokens"),
    ]
    if found["graded"]:
        low, high = wilson(found["accuracy"], found["graded"])
        note = f"95 % interval {low:.0%}\u2013{high:.0%}, {_count(found['graded'])} graded"
        shown.append(_tile("accuracy", f"{found['accuracy']:.1%}", note))
    if found["mean_generated_entropy_bits"] is not None:
        shown.append(_tile("entropy, generated", f"{found['mean_generated_entropy_bits']:.2f} bits", "mean per token"))
    for part in ("generated", "prompt"):
        bits = found[f"mean_{part}_surprisal_bits"]
        if bits is not None:
            shown.append(_tile(f"surprisal, {part}", f"{bits:.2f} bits", "mean per token"))
    if found["share_cut_by_length"]:
        shown.append(_tile("cut by length", f"{found['share_cut_by_length']:.0%}", "of the sequences"))
    return shown


def _tile(name: str, value: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _count(value: float | None) -> str:
    return "0" if value is None else f"{int(value):,}"


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share of n."""
    middle, square = share + _Z**2 / (2 * n), _Z**2 / n
    half = _Z * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def model_facts(run: Json) -> list[tuple[str, str]]:
    """What ran, on what, when."""
    shape = f"{run['n_layers']} layers x {run['n_heads']} heads, width {run['d_model']}"
    pairs = [
        ("tag", run["tag"]),
        ("model", run["model"]),
        ("architecture", run["architecture"]),
        ("shape", shape if run["n_layers"] else None),
        ("computed in", " on ".join(str(run[name]) for name in ("dtype", "device") if run[name]) or None),
        ("attention", run["attn_implementation"]),
        ("revision", run["model_revision"]),
        ("weights (SHA-256)", (run["weights_sha256"] or "")[:16] or None),
        ("seed", run["seed"]),
        ("started", f"{run['created_at']:%Y-%m-%d %H:%M:%S} UTC" if run["created_at"] else None),
        ("took", _took(run)),
        ("status", run["status"]),
    ]
    return [(name, shown(value)) for name, value in pairs if value is not None]


def _took(run: Json) -> str | None:
    if run["finished_at"] is None or run["created_at"] is None:
        return None
    seconds = (run["finished_at"] - run["created_at"]).total_seconds()
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def settings(run: Json) -> list[tuple[str, str]]:
    """The resolved configuration without what is off."""
    config = json.loads(run["config"]) if run["config"] else {}
    return [(name, shown(value)) for name, value in config.items() if value not in (None, [], False, "")]


def shown(value: object) -> str:
    """A value as a page shows it: one line, cut where it is long, nothing that steers the page's direction."""
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    text = str(value)
    cut = text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "\u2026"
    return "".join(c if c == " " else visible(c) for c in cut)
