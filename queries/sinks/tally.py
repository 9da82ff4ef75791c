"""Counts, sums and maxima of segments, in SQL. They add up, so a run that is watched is read one segment at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...lake.errors import DamageError
from ...lake.reading.damage import damaged_files
from ...lake.records.commits import Record
from ...lake.snapshot import Snapshot
from ...lake.tables.run_row import RunRow
from ..derived_views import view_definitions
from .metric import BITS, RISKS, SECONDS, Histogram

FINISH_REASONS = ("eos", "length", "context", "stop_string", "stopped", "broken", "none")
FLAGS = {
    "broken": "is_broken",
    "nan": "has_nan",
    "inf": "has_inf",
    "repetition_loop": "repetition_loop",
    "mid_layer_anomaly": "mid_layer_anomaly",
    "attention_collapse": "attention_collapse",
    "high_entropy": "high_entropy_steps > 0",
    "compound_signal": "compound_signals <> ''",
}
"""Health flags and how `risk_scores` says them; the same as in the saved query `health_overview`."""
RULES = ("v04", "v05")


def _histogram(name: str, value: str, bounds: Sequence[float]) -> str:
    """Columns that count the finite values up to each bound, and sum and count them all."""
    counts = [
        f"count(*) FILTER (isfinite({value}) AND {value} <= {bound}::DOUBLE) AS {name}_{i}"
        for i, bound in enumerate(bounds)
    ]
    rest = f"count(*) FILTER (isfinite({value})) AS {name}_count, sum({value}) FILTER (isfinite({value})) AS {name}_sum"
    return ", ".join([*counts, rest])


_SEQUENCES = f"""
SELECT
    CASE WHEN finish_reason IN {FINISH_REASONS} THEN finish_reason ELSE 'other' END AS finish_reason,
    count(*) AS sequences,
    sum(n_prompt_tokens) AS prompt_tokens,
    sum(n_generated_tokens) AS generated_tokens,
    count(*) FILTER (correct) AS correct,
    count(*) FILTER (NOT correct) AS wrong
FROM sequences
WHERE run_id = $run
GROUP BY 1
"""
_TOKENS = f"""
SELECT
    CASE WHEN is_prompt THEN 'prompt' ELSE 'generated' END AS part,
    {_histogram("entropy", "entropy_bits::DOUBLE", BITS)},
    {_histogram("surprisal", "surprisal_bits::DOUBLE", BITS)},
    {_histogram("latency", "(latency_ms::DOUBLE / 1000)", SECONDS)}
FROM token_steps
WHERE run_id = $run
GROUP BY 1
"""
_LAYERS = """
SELECT
    layer,
    count(*) FILTER (is_norm) AS norms,
    sum(l2_norm::DOUBLE) FILTER (is_norm) AS norm_sum,
    max(l2_norm) FILTER (is_norm) AS max_norm,
    sum(n_nan) AS nan_elements,
    sum(n_inf) AS inf_elements
FROM (
    SELECT *, site = 'resid_post' AND stack = 'decoder' AND position > 0 AND isfinite(l2_norm) AS is_norm
    FROM layer_summaries
    WHERE run_id = $run
)
GROUP BY layer
"""
_OPERATIONS = """
SELECT name AS operation, sum(total_ms) / 1000 AS seconds, sum(count) AS calls
FROM operations
WHERE run_id = $run
GROUP BY name
"""
_HEALTH = f"""
SELECT
    {", ".join(f"count(*) FILTER ({on}) AS flagged_{flag}" for flag, on in FLAGS.items())},
    {", ".join(f"count({on}) AS judged_{flag}" for flag, on in FLAGS.items())},
    {", ".join(f"max(risk_{rule}) AS max_risk_{rule}" for rule in RULES)},
    {", ".join(_histogram(f"risk_{rule}", f"risk_{rule}", RISKS) for rule in RULES)},
    count(collapsed_rate) AS collapsed_count,
    sum(collapsed_rate) AS collapsed_sum,
    count(focused_rate) AS focused_count,
    sum(focused_rate) AS focused_sum
FROM risk_scores
WHERE run_id = $run AND profile = $profile
"""
STATEMENTS = ((_SEQUENCES, 1), (_TOKENS, 1), (_LAYERS, 1), (_OPERATIONS, 1), (_HEALTH, 0))
"""(SELECT, leading columns that are a label). Columns called `max_...` merge by maximum, all others by addition."""


@dataclass
class Tally:
    """Quantities by name and label; one that is missing is not known, which is not the same as 0."""

    values: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, name: str, label: str, value: float) -> None:
        """Merge one value: maxima by their maximum, everything else by addition."""
        key = (name, label)
        if key not in self.values:
            self.values[key] = value
        elif name.startswith("max_"):
            self.values[key] = max(self.values[key], value)
        else:
            self.values[key] += value

    def get(self, name: str, label: str = "") -> float | None:
        """One quantity, or None if it is not known."""
        return self.values.get((name, label))

    def labels(self, name: str) -> list[str]:
        """Labels under which a quantity is known."""
        return [label for known, label in self.values if known == name]

    def total(self, name: str) -> float | None:
        """A quantity summed over its labels; None if nothing is known."""
        found = [value for (known, _), value in self.values.items() if known == name]
        return sum(found) if found else None

    def mean(self, name: str, label: str = "") -> float | None:
        """`name_sum` over `name_count`; None without values."""
        count = self.get(f"{name}_count", label)
        return self.values[f"{name}_sum", label] / count if count else None

    def distribution(self, name: str, bounds: tuple[float, ...], label: str = "") -> Histogram | None:
        """The histogram of a quantity; None without values."""
        count = self.get(f"{name}_count", label)
        if not count:
            return None
        at_most = tuple(self.values[f"{name}_{i}", label] for i in range(len(bounds)))
        return Histogram(bounds, at_most, count, self.values[f"{name}_sum", label])


def count_segments(tally: Tally, snapshot: Snapshot, rows: list[RunRow], records: list[Record], profile: str) -> None:
    """Add what the segments `records` of the snapshot's only run hold; `rows` are those of the table `runs`."""
    from ...lake.sql.duck import Connection

    [(run_id, log)] = snapshot.runs.items()
    only = replace(snapshot, runs={run_id: replace(log, chains={"segments": records})})
    # Asked before counting: a monitor must not show a smaller number where a file is missing.
    for path, _, why in damaged_files(only, run_id):
        raise DamageError(f"{path} of run {run_id} {why}. Run `lake verify` to see what is hit.")
    with Connection(
        lambda: only, lambda _: rows, run=run_id, extra_views=view_definitions(), locked=True
    ) as connection:
        for sql, n_labels in STATEMENTS:
            given = {"run": run_id} | ({"profile": profile} if "$profile" in sql else {})
            found = connection.execute(sql, given)
            names = [column[0] for column in found.description or ()]
            for row in found.fetchall():
                label = str(row[0]) if n_labels else ""
                for name, value in zip(names[n_labels:], row[n_labels:], strict=True):
                    if value is not None:
                        tally.add(name, label, value)
