"""What a reader sees: the commit records of each run, read once, and the files they name."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from . import commits
from .commits import FileEntry, Record
from .disk import Disk
from .errors import DamageError, NotFoundError
from .layout import DERIVED_WRITER, RUN_ID, Layout


@dataclass(frozen=True)
class RunLog:
    """Everything the lake knows of one run: run.json and its commit records, one chain per writer."""

    run_id: str
    run_json: dict[str, Any]
    digest: str
    chains: dict[str, list[Record]]
    removed: bool

    def with_chain(self, writer: str, chain: Sequence[Record]) -> "RunLog":
        """The same run with one writer's records as that writer knows them."""
        return replace(self, chains=self.chains | ({writer: list(chain)} if chain else {}))

    @cached_property
    def segments(self) -> list[Record]:
        """Segment records, each index once: if a retried unit was committed twice, the first by name counts."""
        seen: dict[int | None, Record] = {}
        for writer in sorted(self.chains):
            for record in self.chains[writer]:
                if record.op == "segment":
                    seen.setdefault(record.segment, record)
        return list(seen.values())

    @property
    def committed(self) -> frozenset[int]:
        """Indexes of committed segments."""
        return frozenset(r.segment for r in self.segments if r.segment is not None)

    @cached_property
    def derived(self) -> list[Record]:
        """Records of the analyses that count: those that no later record replaces, in order."""
        found: list[Record] = []
        for record in self.chains.get(DERIVED_WRITER, []):
            found = [earlier for earlier in found if earlier.analysis["analysis_id"] not in record.replaces]
            found += [record] if record.analysis else []
        return found

    @property
    def visible(self) -> list[Record]:
        """Records whose rows a reader sees."""
        return [*self.segments, *self.derived]

    @property
    def files(self) -> list[FileEntry]:
        """Files of all committed segments and analyses."""
        return [entry for record in self.visible for entry in record.files]

    @property
    def counters(self) -> dict[str, int]:
        """Counters summed over the committed segments."""
        total: dict[str, int] = {}
        for record in self.segments:
            for name, value in record.counters.items():
                total[name] = total.get(name, 0) + value
        return total

    @property
    def completion(self) -> Record | None:
        """The latest completion record, if every writer's last record is one."""
        last = [chain[-1] for writer, chain in self.chains.items() if writer != DERIVED_WRITER]
        if not last or any(record.op != "finish" for record in last):
            return None
        return max(last, key=lambda r: (r.status == "failed", r.time))

    @property
    def outcome(self) -> str | None:
        """`complete` or `failed`; None while there is work left, also if a rank died before its first commit."""
        completion = self.completion
        if completion is None or completion.status == "failed":
            return completion and completion.status
        plan = self.run_json.get("plan") or {}
        planned = len(plan.get("segments") or []) if isinstance(plan, dict) else 0
        return "complete" if self.committed >= set(range(planned)) else None


def read_run(disk: Disk, layout: Layout, run_id: str) -> RunLog:
    """Read one run; NotFoundError if there is none, DamageError if a record is torn, edited or missing."""
    run_json, digest = read_run_json(disk, layout, run_id)
    chains = commits.read_records(disk, layout, run_id, digest)
    for problem in missing_heads(chains):
        raise DamageError(f"Run {run_id}: {problem} Run `lake verify` to see what is hit.")
    return RunLog(run_id, run_json, digest, chains, layout.tombstone(run_id).exists())


def read_run_json(disk: Disk, layout: Layout, run_id: str) -> tuple[dict[str, Any], str]:
    """run.json and the digest that the first records carry."""
    path = layout.run_json(run_id)
    if not path.exists():
        raise NotFoundError(f"There is no run {run_id!r} in the lake {layout.root}.")
    data = commits.read(disk, path, run_id)
    try:
        run_json = json.loads(data)
    except ValueError as error:
        raise DamageError(f"run.json of run {run_id} is no JSON ({path}): {error}. Run `lake verify`.") from error
    return run_json, hashlib.sha256(data).hexdigest()


def missing_heads(chains: dict[str, list[Record]]) -> Iterator[str]:
    """Records that a completion record has seen and that are gone."""
    known = {(r.writer, r.seq): r.digest for chain in chains.values() for r in chain}
    for chain in chains.values():
        for record in chain:
            for writer, (seq, digest) in record.heads.items():
                if known.get((writer, int(seq))) != digest:
                    yield f"the commit record {writer}-{int(seq):06d}.json is missing or was changed."


def run_ids(disk: Disk, layout: Layout) -> list[str]:
    """Ids of all runs that have a run.json, removed ones included."""
    return [name for name in disk.names(layout.runs) if RUN_ID.fullmatch(name) and layout.run_json(name).exists()]


@dataclass(frozen=True)
class Snapshot:
    """A fixed set of commits: what it names does not change while others write."""

    layout: Layout
    runs: dict[str, RunLog]

    def files(self, table: str, run: str | None = None) -> list[FileEntry]:
        """Files of one table, of all runs or of one, removed runs left out."""
        return [e for e, _ in self._entries(table, run)]

    def files_by_columns(self, table: str, run: str | None = None) -> dict[tuple[str, ...], list[FileEntry]]:
        """Files of one table grouped by the columns they were written with."""
        groups: dict[tuple[str, ...], list[FileEntry]] = {}
        for entry, columns in self._entries(table, run):
            groups.setdefault(columns, []).append(entry)
        return groups

    def _entries(self, table: str, run: str | None) -> Iterator[tuple[FileEntry, tuple[str, ...]]]:
        for run_id, log in self.runs.items():
            if log.removed or (run is not None and run_id != run):
                continue
            for record in log.visible:
                columns = tuple(record.columns.get(table, ()))
                for entry in record.files:
                    if entry.table == table:
                        yield entry, columns


def take_snapshot(disk: Disk, layout: Layout, run: str | None = None) -> Snapshot:
    """Read the records of all runs, or of one."""
    ids = [run] if run is not None else run_ids(disk, layout)
    return Snapshot(layout, {run_id: read_run(disk, layout, run_id) for run_id in ids})
