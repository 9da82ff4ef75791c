"""What must hold between the numbers of one row, whatever the model: a broken rule means a number is wrong.

Rules are written over numpy columns; a null is NaN there, and no comparison with NaN is true. Float32 sums of a softmax
miss 1 by about 1e-6, and entropies by more, hence the tolerances.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

TOLERANCE = 1e-5
LN2 = float(np.log(2.0))
ONE_NAT = 1.0 / LN2
"""In bits."""

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Invariant:
    """A sentence about columns of one row, and where it is broken."""

    sentence: str
    columns: tuple[str, ...]
    broken: Callable[..., np.ndarray]


def _between(name: str, low: float, high: float) -> Invariant:
    return Invariant(
        f"{low:g} <= {name} <= {high:g}" if np.isfinite(high) else f"{name} >= {low:g}",
        (name,),
        lambda x: (x < low - TOLERANCE) | (x > high + TOLERANCE),
    )


def _ordered(smaller: str, larger: str) -> Invariant:
    return Invariant(f"{smaller} <= {larger}", (smaller, larger), lambda a, b: a > b + TOLERANCE + 1e-4 * np.abs(b))


INVARIANTS: dict[str, tuple[Invariant, ...]] = {
    "token_steps": (
        _between("entropy_bits", 0, np.inf),
        _between("surprisal_bits", 0, np.inf),
        _between("sampling_entropy_bits", 0, np.inf),
        _between("top1_prob", 0, 1),
        _between("margin", 0, 1),
        _between("top10_mass", 0, 1),
        _ordered("margin", "top1_prob"),
        _ordered("top1_prob", "top10_mass"),
        Invariant(
            "surprisal_bits = -logprob / ln 2",
            ("surprisal_bits", "logprob"),
            lambda s, p: np.abs(s + p / LN2) > TOLERANCE + 1e-4 * np.abs(s),
        ),
        Invariant(
            "rank = 0 if and only if the token has the top probability",
            ("rank", "logprob", "top1_prob"),
            lambda rank, p, top: (rank == 0) & (np.abs(np.exp(p) - top) > 1e-4) | (rank > 0) & (np.exp(p) > top + 1e-4),
        ),
    ),
    "layer_summaries": (
        _between("l2_norm", 0, np.inf),
        _between("max_abs", 0, np.inf),
        _ordered("max_abs", "l2_norm"),
        _between("cos_prev_layer", -1, 1),
        _between("cos_prev_position", -1, 1),
        _between("attn_entropy_bits_min", 0, np.inf),
        _between("attn_max_weight_max", 0, 1),
        *(
            _ordered(f"attn_{name}_{low}", f"attn_{name}_{high}")
            for name in ("entropy_bits", "max_weight")
            for low, high in (("min", "mean"), ("mean", "max"))
        ),
        Invariant(
            "attn_max_weight_max > 0.95 implies attn_entropy_bits_min <= 1 nat (1.4427 bits)",
            ("attn_max_weight_max", "attn_entropy_bits_min"),
            lambda weight, entropy: (weight > 0.95) & (entropy > ONE_NAT + TOLERANCE),
        ),
    ),
    "head_summaries": (
        _between("entropy_bits", 0, np.inf),
        _between("max_weight", 0, 1),
        _between("basin_ratio", 0, np.inf),
        Invariant(
            "entropy_bits <= log2(n_keys)",
            ("entropy_bits", "n_keys"),
            lambda entropy, n: entropy > np.log2(np.maximum(n, 1)) + TOLERANCE + 1e-4 * entropy,
        ),
    ),
    "attention_edges": (_between("weight", 0, 1),),
}


def broken_invariants(table: str, rows: pa.Table) -> Iterator[str]:
    """A sentence for each rule that rows of `table` break, with how many and the first of them."""
    columns: dict[str, np.ndarray] = {}
    for rule in INVARIANTS.get(table, ()):
        if not set(rule.columns) <= set(rows.column_names):
            continue
        for name in rule.columns:
            if name not in columns:
                columns[name] = rows.column(name).cast(pa.float64()).to_numpy()
        with np.errstate(invalid="ignore", over="ignore"):
            found = np.flatnonzero(rule.broken(*(columns[name] for name in rule.columns)))
        if len(found):
            where = [f"{name} {rows.column(name)[int(found[0])]}" for name in ("sequence_id", "position")]
            values = ", ".join(f"{name} {columns[name][found[0]]:.7g}" for name in rule.columns)
            yield f"{len(found):,} rows break `{rule.sentence}`, first at {', '.join(where)}: {values}"
