"""A run watched while it is collected: one line per committed segment, with its flags and risk from the views."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

from ...lake.records.commits import Record
from ...lake.values import Row
from ..queried_lake import QueriedLake
from ..saved_query import check_profile

RISKY = 0.7
"""Risk from which the health source's own capture rule takes notice (docs/health.md)."""

JUDGED = """
SELECT
    asked.place,
    count(*) AS n_sequences,
    sum(n_steps)::BIGINT AS n_generated_tokens,
    count(*) FILTER (is_broken OR has_nan OR has_inf) AS n_not_finite,
    count(*) FILTER (repetition_loop) AS n_repetition,
    count(*) FILTER (attention_collapse) AS n_collapse,
    count(*) FILTER (mid_layer_anomaly) AS n_mid_layer,
    count(*) FILTER (high_entropy_steps > 0) AS n_high_entropy,
    count(*) FILTER (risk_v05 >= $risky) AS n_risky,
    max(risk_v05) AS max_risk,
    arg_min(sequence_id, (-risk_v05, sequence_id)) FILTER (risk_v05 IS NOT NULL) AS riskiest_sequence
FROM risk_scores
JOIN (SELECT unnest($places) AS place, unnest($firsts) AS first, unnest($ends) AS behind) AS asked
    ON sequence_id >= asked.first AND sequence_id < asked.behind
WHERE run_id = $run AND profile = $profile AND sequence_id >= $first AND sequence_id < $behind
GROUP BY asked.place
"""
"""All segments that are asked for at once: most of the time of an answer does not depend on how many they are."""


@dataclass(frozen=True)
class SegmentNews:
    """What one committed segment brought; `max_risk` is null where not enough was kept to judge."""

    segment: int
    n_segments: int
    n_sequences: int
    n_tokens: int
    n_generated_tokens: int
    n_not_finite: int
    n_repetition: int
    n_collapse: int
    n_mid_layer: int
    n_high_entropy: int
    n_risky: int
    max_risk: float | None
    riskiest_sequence: int | None

    def text(self) -> str:
        """One line for a terminal."""
        flags = {
            "not finite": self.n_not_finite,
            "repetition": self.n_repetition,
            "collapse": self.n_collapse,
            "mid-layer": self.n_mid_layer,
            "high entropy": self.n_high_entropy,
        }
        raised = ", ".join(f"{name} {count}" for name, count in flags.items() if count) or "none"
        risk = "risk unknown"
        if self.max_risk is not None:
            risk = (
                f"risk up to {self.max_risk:.2f} (sequence {self.riskiest_sequence}), {self.n_risky} at {RISKY} or more"
            )
        return (
            f"segment {self.segment + 1}/{self.n_segments}: {self.n_sequences:,} sequences, {self.n_tokens:,} tokens; "
            f"flags: {raised}; {risk}"
        )

    def as_dict(self) -> dict[str, object]:
        """The news as plain values for JSON."""
        return asdict(self)


COUNTS = [f.name for f in fields(SegmentNews) if f.name.startswith("n_") and f.name not in ("n_segments", "n_tokens")]


def follow(lake: QueriedLake, run_id: str, profile: str, *, interval_s: float = 1.0) -> Iterator[SegmentNews]:
    """Yield the news of every segment, those committed already first, until the run is not running any more."""
    with lake.connect(locked=True) as connection:
        check_profile(connection, profile)
    about = lake.run_json(run_id)
    n_segments = len((about.get("plan") or {}).get("segments") or [])
    samples = int((about.get("config") or {}).get("samples") or 1)
    seen: set[int | None] = set()
    while True:
        # Asked before the records are read: what is committed in between is seen in this round.
        running = lake.run_status(run_id) == "running"
        records = [r for r in lake.snapshot(run_id).runs[run_id].segments if r.items and r.segment not in seen]
        seen |= {record.segment for record in records}
        if records:
            records.sort(key=lambda record: record.segment or 0)
            yield from _news(lake, run_id, profile, records, n_segments, samples)
        if not running:
            return
        time.sleep(interval_s)


def _news(
    lake: QueriedLake, run_id: str, profile: str, records: Sequence[Record], n_segments: int, samples: int
) -> Iterator[SegmentNews]:
    """What each of some segments brought, in their order."""
    spans = [tuple(item * samples for item in record.items or (0, 0)) for record in records]
    firsts, ends = [first for first, _ in spans], [end for _, end in spans]
    parameters = {
        "run": run_id, "profile": profile, "risky": RISKY, "first": min(firsts), "behind": max(ends),
        "places": list(range(len(records))), "firsts": firsts, "ends": ends,
    }  # fmt: skip
    rows = {row["place"]: row for row in lake.sql(JUDGED, parameters).iter_rows(named=True)}
    for place, record in enumerate(records):
        row: Row = rows.get(place, {})
        yield SegmentNews(
            segment=record.segment or 0,
            n_segments=n_segments,
            n_tokens=record.counters.get("n_tokens", 0),
            max_risk=row.get("max_risk"),
            riskiest_sequence=row.get("riskiest_sequence"),
            **{name: row.get(name) or 0 for name in COUNTS},
        )
