"""One reading of a run: every metric with its samples, from committed segments; a later reading adds the new ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from ...lake.lake import Lake
from ...lake.records.commits import Record
from ...lake.schema import stored_tables
from ...lake.snapshot import RunLog, Snapshot
from ...lake.tables.run_row import RunRow
from ..derived_views import view_definitions
from ..saved_query import check_profile
from .metric import BITS, METRICS, RISKS, SECONDS, Family, Histogram, Sample
from .tally import FINISH_REASONS, FLAGS, RULES, Tally, count_segments

STATUSES = ("running", "complete", "interrupted", "failed")
MOST_LAYERS = 128
"""Layers that are exported at most; of more, this many evenly spaced ones with the first and the last."""

Point = tuple[str, tuple[str, ...], float | Histogram | None]


@dataclass(frozen=True)
class RunNumbers:
    """The metrics of one run at one moment."""

    run_id: str
    status: str
    profile: str
    families: list[Family]

    @property
    def n_samples(self) -> int:
        """Samples of all families; a histogram counts once."""
        return sum(len(family.samples) for family in self.families)

    def as_dict(self) -> dict[str, object]:
        """The reading as plain values for JSON."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "profile": self.profile,
            "metrics": [family.as_dict() for family in self.families],
        }


class RunReader:
    """Reads a run again and again; `latest`, tags and prefixes are looked up each time, so a newer run is followed."""

    def __init__(self, lake: Lake, run: str, profile: str = "default") -> None:
        """UsageError if there is no such health profile."""
        self.lake, self.run, self.profile = lake, run, profile
        self._run_id = ""
        self._seen: set[tuple[str, int, str]] = set()
        self._tally = Tally()
        with lake.connect(locked=True, extra_views=view_definitions()) as connection:
            check_profile(connection, profile)

    def read(self) -> RunNumbers:
        """The metrics of what is committed now; NotFoundError if the run is gone, DamageError if a record is."""
        snapshot = self.lake.snapshot(self.run)
        [(run_id, log)] = snapshot.runs.items()
        rows = self.lake.rows_of_runs([log])
        self._count(snapshot, rows, log)
        points = [
            *_about_run(rows[0], log),
            *_stored(snapshot),
            *_counted(self._tally),
            *_judged(self._tally, self.profile),
        ]
        common = {"run": run_id, "tag": rows[0]["tag"], "model": rows[0]["model"]}
        return RunNumbers(run_id, rows[0]["status"], self.profile, _families(points, common))

    def _count(self, snapshot: Snapshot, rows: list[RunRow], log: RunLog) -> None:
        """Bring the tally up to the snapshot; from the start if the run is another one or a known segment is gone."""
        records = {_identity(record): record for record in log.segments}
        if log.run_id != self._run_id or not self._seen <= records.keys():
            self._run_id, self._seen, self._tally = log.run_id, set(), Tally()
        new = [record for identity, record in records.items() if identity not in self._seen]
        if new:
            tally = Tally(dict(self._tally.values))
            count_segments(tally, snapshot, rows, new, self.profile)
            # Only now: a reading that fails halfway leaves the earlier one whole.
            self._tally, self._seen = tally, set(records)


def _identity(record: Record) -> tuple[str, int, str]:
    return (record.writer, record.seq, record.digest)


def _families(points: list[Point], common: dict[str, str | None]) -> list[Family]:
    """Samples by metric, in the order of METRICS; what is not known has no sample."""
    base = {name: value for name, value in common.items() if value}
    found: dict[str, list[Sample]] = {}
    for name, labels, value in points:
        if value is not None:
            own = dict(zip(METRICS[name].labels, labels, strict=True))
            found.setdefault(name, []).append(Sample(base | own, value))
    return [Family(metric, found[name]) for name, metric in METRICS.items() if name in found]


def _about_run(row: RunRow, log: RunLog) -> Iterator[Point]:
    yield (
        "tracelake_run_info",
        tuple(str(row[name] or "") for name in ("kind", "architecture", "device", "dtype")),
        1,
    )
    for status in STATUSES:
        yield "tracelake_run_status", (status,), int(row["status"] == status)
    for when, time in (("created", row["created_at"]), ("finished", row["finished_at"])):
        yield f"tracelake_run_{when}_timestamp_seconds", (), None if time is None else _seconds(time)
    commits = [_seconds(datetime.fromisoformat(record.time)) for record in log.segments]
    yield "tracelake_last_commit_timestamp_seconds", (), max(commits, default=None)
    plan = log.run_json.get("plan")
    planned = plan.get("segments") if isinstance(plan, dict) else None
    yield "tracelake_segments_planned", (), len(planned) if planned else None
    yield "tracelake_segments_total", (), len(log.segments)


def _seconds(time: datetime) -> float:
    """Seconds since 1970; a time without zone is UTC, as everywhere in the lake."""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _stored(snapshot: Snapshot) -> Iterator[Point]:
    for table in stored_tables():
        if files := snapshot.files(table.name):
            yield "tracelake_stored_bytes", (table.name,), sum(file.size for file in files)
            yield "tracelake_stored_rows", (table.name,), sum(file.rows for file in files)


def _counted(tally: Tally) -> Iterator[Point]:
    """Sequences, tokens, time and states."""
    reasons = dict.fromkeys([*FINISH_REASONS, *tally.labels("sequences")])
    for reason in reasons:
        # From 0 on, so that the first `broken` sequence is an increase.
        yield "tracelake_sequences_total", (reason,), tally.get("sequences", reason) or 0
    wall = tally.get("seconds", "wall")
    for part in ("prompt", "generated"):
        tokens = tally.total(f"{part}_tokens") or 0
        yield "tracelake_tokens_total", (part,), tokens
        yield "tracelake_tokens_per_second", (part,), tokens / wall if wall else None
        yield "tracelake_token_entropy_bits", (part,), tally.distribution("entropy", BITS, part)
        yield "tracelake_token_surprisal_bits", (part,), tally.distribution("surprisal", BITS, part)
    outcomes = {outcome: tally.total(outcome) or 0 for outcome in ("correct", "wrong")}
    for outcome, count in outcomes.items():
        yield "tracelake_graded_sequences_total", (outcome,), count if any(outcomes.values()) else None
    yield "tracelake_step_latency_seconds", (), tally.distribution("latency", SECONDS, "generated")
    yield "tracelake_wall_seconds_total", (), wall
    for operation in sorted(set(tally.labels("seconds")) - {"wall"}):
        yield "tracelake_operation_seconds_total", (operation,), tally.get("seconds", operation)
        yield "tracelake_operation_calls_total", (operation,), tally.get("calls", operation)
    for layer in _spread(sorted(tally.labels("max_norm"), key=int)):
        norms = tally.get("norms", layer)
        total = tally.get("norm_sum", layer)
        yield "tracelake_layer_norm_mean", (layer,), total / norms if norms and total is not None else None
        yield "tracelake_layer_norm_max", (layer,), tally.get("max_norm", layer)
    for kind in ("nan", "inf"):
        yield f"tracelake_state_{kind}_elements_total", (), tally.total(f"{kind}_elements")


def _judged(tally: Tally, profile: str) -> Iterator[Point]:
    """Flags and risk under one profile; a flag that could not be judged for any sequence has no count."""
    for flag in FLAGS:
        judged = tally.get(f"judged_{flag}")
        yield "tracelake_judged_sequences_total", (flag, profile), judged
        yield "tracelake_flagged_sequences_total", (flag, profile), tally.get(f"flagged_{flag}") if judged else None
    for rule in RULES:
        yield "tracelake_risk_mean", (rule, profile), tally.mean(f"risk_{rule}")
        yield "tracelake_risk_max", (rule, profile), tally.get(f"max_risk_{rule}")
        yield "tracelake_sequence_risk", (rule, profile), tally.distribution(f"risk_{rule}", RISKS)
    yield "tracelake_collapsed_heads_ratio", (profile,), tally.mean("collapsed")
    yield "tracelake_focused_heads_ratio", (profile,), tally.mean("focused")


def _spread(layers: list[str]) -> list[str]:
    """At most MOST_LAYERS of the layers, evenly spaced, the first and the last among them."""
    if len(layers) <= MOST_LAYERS:
        return layers
    return [layers[round(i * (len(layers) - 1) / (MOST_LAYERS - 1))] for i in range(MOST_LAYERS)]
