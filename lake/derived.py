"""Analyses of a run: what identifies one, and which are stored. `analyses` writes them and takes them out.

An analysis is named by a hash of its name, its parameters and the committed files it read, so equal work is found, not
done again. Its rows lie beside the run's own, committed by the writer `derived`; a later record may replace it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from .records.commits import Record
from .snapshot import RunLog, Snapshot
from .values import Json, Row


@dataclass(frozen=True)
class Analysis:
    """What is computed, from which committed files."""

    run_id: str
    name: str
    parameters: Mapping[str, object]
    snapshot: str

    @property
    def analysis_id(self) -> str:
        """`name-` and 12 hex digits: equal for equal name, parameters and input files."""
        return f"{self.name}-{digest([self.name, self.parameters, self.snapshot])[:12]}"

    @property
    def question(self) -> str:
        """The same without the input files: a newer answer to the same question replaces an older one."""
        return digest([self.run_id, self.name, self.parameters])[:12]


@dataclass(frozen=True)
class StoredAnalysis:
    """An analysis in the lake."""

    run_id: str
    analysis_id: str
    name: str
    question: str
    parameters: Json
    snapshot: str
    time: str
    n_rows: dict[str, int]
    n_bytes: int

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def digest(value: object) -> str:
    """SHA-256 of a JSON value, its keys in order, as hex digits."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def input_digest(snapshot: Snapshot, reads: Sequence[tuple[str, Mapping[str, int | str]]]) -> str:
    """16 hex digits over the committed files that are read: (table, values of key columns that are wanted of it)."""
    entries = [entry for table, only in reads for entry in snapshot.files(table) if entry.may_hold(only)]
    named = sorted({(entry.path, entry.checksum.digest) for entry in entries})
    return digest(named)[:16]


def stored_analyses(log: RunLog) -> dict[str, StoredAnalysis]:
    """The analyses of a run that count, by id, oldest first."""
    found: dict[str, StoredAnalysis] = {}
    for record in log.derived:
        about = record.analysis
        before = found.get(about["analysis_id"])
        rows = dict(before.n_rows) if before else {}
        for entry in record.files:
            rows[entry.table] = rows.get(entry.table, 0) + entry.rows
        size = sum(entry.size for entry in record.files) + (before.n_bytes if before else 0)
        found[about["analysis_id"]] = StoredAnalysis(
            log.run_id, about["analysis_id"], about["name"], about["question"], about["parameters"],
            about["snapshot"], record.time, rows, size,
        )  # fmt: skip
    return found


def analysis_row(analysis: Analysis, n_sequences: int, notices: Sequence[str], other: str | None) -> Row:
    """The row of `analyses`, as columns."""
    return {
        "analysis_id": analysis.analysis_id,
        "name": analysis.name,
        "parameters": json.dumps(analysis.parameters, ensure_ascii=False, sort_keys=True),
        "snapshot": analysis.snapshot,
        "other_run_id": other,
        "created_at": [datetime.now(UTC)],
        "n_sequences": n_sequences,
        "notices": " ".join(notices) or None,
    }


def replaced_entries(chain: Sequence[Record]) -> Iterator[tuple[str, datetime]]:
    """Files of analyses that no reader sees any more, and since when."""
    for place, record in enumerate(chain):
        for later in chain[place + 1 :]:
            if record.analysis and record.analysis["analysis_id"] in later.replaces:
                yield from ((path, datetime.fromisoformat(later.time)) for path, _ in record.paths)
                break
