"""What a reader sees: the commit records of each run, read once, and the files they name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from . import layout
from .errors import DamageError, LakeError, NotFoundError
from .layout import DERIVED_WRITER, RUN_ID
from .records import commits
from .records.commits import BlobEntry, FileEntry, Record
from .records.run_json import RunJson, read_run_json
from .records.tombstone import check_tombstone
from .storage.store import Store


@dataclass(frozen=True)
class RunLog:
    """Everything the lake knows of one run: run.json and its commit records, one chain per writer."""

    run_id: str
    run_json: RunJson
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
        counted: list[Record] = []
        for record in self.chains.get(DERIVED_WRITER, []):
            counted = [earlier for earlier in counted if earlier.analysis["analysis_id"] not in record.replaces]
            counted += [record] if record.analysis else []
        return counted

    @property
    def visible(self) -> list[Record]:
        """Records whose rows a reader sees."""
        return [*self.segments, *self.derived]

    @property
    def files(self) -> list[FileEntry]:
        """Files of all committed segments and analyses."""
        return [entry for record in self.visible for entry in record.files]

    @property
    def blobs(self) -> list[BlobEntry]:
        """Blobs of all committed segments and analyses, in the order of their commits."""
        return [entry for record in self.visible for entry in record.blobs]

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
        planned = len((self.run_json.get("plan") or {}).get("segments") or [])
        # A source of unknown length may end before all segments of the plan are filled.
        filled = completion.extra.get("n_segments")
        planned = min(planned, filled) if type(filled) is int else planned
        return "complete" if self.committed >= set(range(planned)) else None


def read_run(store: Store, run_id: str) -> RunLog:
    """Read one run; NotFoundError if there is none, DamageError if a record is torn, edited or missing.

    Of a removed run nothing is damage: a removal may have been stopped anywhere.
    """
    names = store.names(layout.run_folder(run_id))
    removed = "tombstone.json" in names
    try:
        run_json, digest = read_run_json(store, run_id)
        chains = _read_chains(store, run_id, digest, has_ends="ends" in names)
    except LakeError as error:
        if isinstance(error, NotFoundError) and "run.json" not in names:
            raise
        if not removed and not store.exists(layout.tombstone(run_id)):
            raise
        check_tombstone(store, run_id, None, None)
        return RunLog(run_id, {}, "", {}, removed=True)
    if removed:
        check_tombstone(store, run_id, run_json, digest)
    return RunLog(run_id, run_json, digest, chains, removed)


def _read_chains(store: Store, run_id: str, digest: str, *, has_ends: bool) -> dict[str, list[Record]]:
    problem = ""
    for _ in range(3):  # a listing taken while writers commit may miss an earlier name
        # Before the records: what an end names is committed earlier than the end.
        ends = store.names(layout.ends(run_id)) if has_ends else []
        chains = commits.read_records(store, run_id, digest)
        problem = next(commits.missing_heads(chains, ends), "")
        if not problem:
            return chains
    raise DamageError(f"Run {run_id}: {problem} Run `lake verify` to see what is hit.")


def run_ids(store: Store) -> list[str]:
    """Ids of all runs that have a run.json, removed ones included."""
    ids = [name for name in store.names(layout.RUNS) if RUN_ID.fullmatch(name)]
    return [run_id for run_id in ids if _has_run_json(store, run_id)]


def _has_run_json(store: Store, run_id: str) -> bool:
    try:
        return "run.json" in store.names(layout.run_folder(run_id))
    except DamageError:
        return True  # a link or a file where the run's folder belongs: to be named when it is read


@dataclass(frozen=True)
class Snapshot:
    """A fixed set of commits: what it names does not change while others write.

    `damaged` are the runs that could not be read, with the reason: the others are not hidden by them.
    """

    store: Store
    runs: dict[str, RunLog]
    damaged: dict[str, LakeError] = field(default_factory=dict)

    def files(self, table: str, run: str | None = None) -> list[FileEntry]:
        """Files of one table, of all runs or of one, removed runs left out."""
        return [e for e, _ in self._entries(table, run)]

    def files_by_columns(self, table: str, run: str | None = None) -> dict[tuple[str, ...], list[FileEntry]]:
        """Files of one table grouped by the columns they were written with."""
        groups: dict[tuple[str, ...], list[FileEntry]] = {}
        for entry, columns in self._entries(table, run):
            groups.setdefault(columns, []).append(entry)
        return groups

    def without(self, damaged: Mapping[str, LakeError]) -> "Snapshot":
        """The same commits but those of runs whose files turned out to be damaged."""
        runs = {run_id: log for run_id, log in self.runs.items() if run_id not in damaged}
        return replace(self, runs=runs, damaged={**self.damaged, **damaged})

    def _entries(self, table: str, run: str | None) -> Iterator[tuple[FileEntry, tuple[str, ...]]]:
        for run_id, log in self.runs.items():
            if log.removed or (run is not None and run_id != run):
                continue
            for record in log.visible:
                columns = tuple(record.columns.get(table, ()))
                for entry in record.files:
                    if entry.table == table:
                        yield entry, columns


def take_snapshot(store: Store, run: str | None = None) -> Snapshot:
    """Read the records of all runs, or of one; among several, one that cannot be read is set aside."""
    if run is not None:
        return Snapshot(store, {run: read_run(store, run)})
    runs: dict[str, RunLog] = {}
    damaged: dict[str, LakeError] = {}
    for run_id in [name for name in store.names(layout.RUNS) if RUN_ID.fullmatch(name)]:
        try:
            runs[run_id] = read_run(store, run_id)
        except NotFoundError:
            continue  # a start that died, or a run that was removed for good
        except LakeError as error:
            damaged[run_id] = error
    if damaged and all(log.removed for log in runs.values()):
        raise next(iter(damaged.values()))  # there is nothing else to read
    return Snapshot(store, runs, damaged)
