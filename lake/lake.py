"""`Lake`: a directory of tables. Opens it, starts, joins and resumes runs, and reads what is committed."""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, overload

from . import layout
from .errors import ConfigError, DamageError, LockedError, NewerFormatError, NotFoundError, UsageError, did_you_mean
from .json_values import parse
from .layout import RUN_ID, WRITER, check_name
from .output.notices import name_damaged
from .records import commits
from .records.run_json import FORMAT_VERSION, OWN, RunJson, encode_run_json, read_run_json
from .schema import TABLES
from .snapshot import RunLog, Snapshot, read_run, run_ids, take_snapshot
from .storage.local import LocalStore
from .storage.store import Lease, Store, explained
from .values import Json

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from .derived import StoredAnalysis
    from .reading.selection import Selected
    from .sql.duck import Connection
    from .tables.run_row import RunRow
    from .upkeep.removal import Removal
    from .upkeep.vacuum import Vacuumed
    from .upkeep.verify import Verification
    from .writing.writer import RunWriter

Views: TypeAlias = Sequence[tuple[str, str, str]]
PATIENCE_S = 1.0  # that a writer waits for a reader's look at its lease, or for a vacuum, to pass


class Lake:
    """One lake in a store. Cheap to make: nothing is read before it is asked for."""

    def __init__(self, path: str | Path, *, store: Store | None = None) -> None:
        self.store: Store = store or LocalStore(path)
        self.path = self.store.path

    @classmethod
    def create(cls, path: str | Path, *, store: Store | None = None) -> Self:
        """Open the lake at `path`, making it if there is none."""
        lake = cls(path, store=store)
        try:
            return cls.open(path, store=store)
        except NotFoundError:
            with explained(f"making the lake {lake.path}"):
                lake._make()
        return cls.open(path, store=store)

    @classmethod
    def open(cls, path: str | Path, *, store: Store | None = None) -> Self:
        """Open an existing lake; NotFoundError if there is none, NewerFormatError if it is from a later version."""
        lake = cls(path, store=store)
        where = f"{lake.path}/{layout.MARKER}"
        try:
            marker = parse(lake.store.read(layout.MARKER), where)
            version = int(marker["format_version"])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise layout.no_lake(lake.path, path, error) from None
        except OSError as error:
            raise ConfigError(f"The lake at {lake.path} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, DamageError) as error:
            raise DamageError(f"{where} is damaged: {error}") from error
        if version > FORMAT_VERSION:
            raise NewerFormatError(
                f"The lake at {lake.path} has format {version}; this tracelake reads up to {FORMAT_VERSION}. "
                "Install a newer tracelake."
            )
        return lake

    def check_writable(self) -> None:
        """Raise ConfigError (or DiskFullError) if segments could not be committed here."""
        with explained(f"writing to the lake {self.path}"):
            self.store.check_writable()

    def _make(self) -> None:
        store = self.store
        store.make_root()
        store.make([layout.DATA, layout.RUNS, layout.STAGING, layout.LOCKS, layout.TRASH])
        body = {"format_version": FORMAT_VERSION, "lake_id": secrets.token_hex(8), "created_at": commits.now()}
        draft = f"{layout.STAGING}/lake-{secrets.token_hex(4)}.part"
        try:
            commits.publish(store, (json.dumps(body, indent=2) + "\n").encode(), layout.MARKER, draft=draft)
        except LockedError:
            return  # another process made it in the same moment: as good as ours

    def start_run(self, run_id: str, run_json: Mapping[str, object], writer: str = "w0") -> "RunWriter":
        """Publish run.json and open the run for writing; LockedError or UsageError if the run exists."""
        data = encode_run_json(run_id, run_json)
        lease = self._take_lease(run_id, writer)
        try:
            if self._is_started(run_id):
                raise UsageError(f"Run {run_id!r} exists already. Resume it, or choose another id.")
            self._publish_run_json(run_id, writer, data)
            return self._writer(run_id, writer, lease)
        except BaseException:
            lease.release()
            raise

    def join_run(self, run_id: str, run_json: Mapping[str, object], writer: str) -> "RunWriter":
        """Start the run, or join it if another writer did: all must bring the same run.json; ConfigError otherwise.

        Calling it again after a crash goes on where this writer was.
        """
        data = encode_run_json(run_id, run_json)
        lease = self._take_lease(run_id, writer)
        try:
            if not self._is_started(run_id):
                try:
                    self._publish_run_json(run_id, writer, data)
                except LockedError:
                    pass  # another writer started it in the same moment
            self._check_not_removed(run_id)
            ours, there = json.loads(data), read_run_json(self.store, run_id)[0]
            if differing := sorted(key for key in ours | there if key not in OWN and ours.get(key) != there.get(key)):
                raise ConfigError(
                    f"Run {run_id} cannot be joined: {', '.join(differing)} of its run.json differ from what this "
                    f"writer ({writer}) brings. All writers of a run need the same configuration."
                )
            return self._writer(run_id, writer, lease)
        except BaseException:
            lease.release()
            raise

    def resume_run(self, run_id: str, writer: str = "w0") -> "RunWriter":
        """Open an existing run for writing; LockedError if this writer is at work in another process."""
        run_id = self.resolve_run(run_id)
        lease = self._take_lease(run_id, writer)
        try:
            self._check_not_removed(run_id)
            return self._writer(run_id, writer, lease)
        except BaseException:
            lease.release()
            raise

    def _is_started(self, run_id: str) -> bool:
        return self.store.names(layout.run_folder(run_id)) not in ([], ["commits"])

    def _check_not_removed(self, run_id: str) -> None:
        if self.store.exists(layout.tombstone(run_id)):
            raise NotFoundError(f"Run {run_id!r} was removed.")

    def _publish_run_json(self, run_id: str, writer: str, data: bytes) -> None:
        with explained(f"starting run {run_id}"):
            self.store.settle(layout.commits(run_id))
            draft = f"{layout.staging(run_id, writer)}/run.json.part"
            commits.publish(self.store, data, layout.run_json(run_id), draft=draft)

    def _writer(self, run_id: str, writer: str, lease: Lease) -> "RunWriter":
        from .writing.writer import RunWriter

        return RunWriter(self.store, run_id, writer, lease=lease)

    def _take_lease(self, run_id: str, writer: str) -> Lease:
        name = layout.lock(check_name(run_id, RUN_ID, "run id"), check_name(writer, WRITER, "writer id"))
        with explained(f"locking run {run_id}"):
            self.store.check_places()
            lease = self.store.lease(name, patience_s=PATIENCE_S)
        if lease is None:
            raise LockedError(
                f"Another process is writing run {run_id} (writer {writer}). Wait for it to finish, or stop it, then "
                "try again."
            )
        return lease

    def snapshot(self, run: str | None = None) -> Snapshot:
        """The commits that exist now, of all runs or of one; of all, those that are damaged are named and left out."""
        if run is not None:
            return take_snapshot(self.store, self.resolve_run(run))
        snapshot = take_snapshot(self.store)
        name_damaged(self.path, snapshot.damaged)
        return snapshot

    def rows_of_runs(self, logs: Iterable[RunLog]) -> "list[RunRow]":
        """Rows of the table `runs`, one per log, oldest first."""
        from .runs import run_rows

        return run_rows(logs, self.store)

    def runs(self) -> "list[RunRow]":
        """One dict per run, oldest first, with the columns of the table `runs`."""
        return self.rows_of_runs(self.snapshot().runs.values())

    def runs_table(self) -> "pa.Table":
        """The table `runs` in Arrow."""
        from .runs import runs_table

        return runs_table(self.runs())

    def run_json(self, run: str) -> RunJson:
        """Configuration and provenance of a run."""
        return read_run_json(self.store, self.resolve_run(run))[0]

    def run_status(self, run: str) -> str:
        """running, complete, interrupted or failed."""
        from .runs import status

        return status(read_run(self.store, self.resolve_run(run)), self.store)

    def resolve_run(self, text: str) -> str:
        """The id of the run that `text` means: an id, a unique prefix, a tag, or `latest`; an id reads no other run."""
        from .runs import known_runs, resolve

        if RUN_ID.fullmatch(text):
            names = self.store.names(layout.run_folder(text))
            if "run.json" in names and "tombstone.json" not in names:
                return text
        known, damaged = known_runs(self.store)
        name_damaged(self.path, damaged)
        return resolve(text, known)

    def connect(
        self, *, run: str | None = None, extra_views: Views = (), locked: bool = False, at_once: bool = True
    ) -> "Connection":
        """A DuckDB connection with a view per table (name, SQL and comment of further views may be given).

        `locked`: single SELECTs over the lake's own files, no more. Unless `at_once`, commits are read when needed.
        """
        from .sql.duck import Connection

        run_id = None if run is None else self.resolve_run(run)
        now = self.snapshot(run_id) if at_once else None
        return Connection(
            lambda: now or self.snapshot(run_id), self.rows_of_runs, run=run_id, extra_views=extra_views, locked=locked
        )

    def sql(self, query: str, parameters: "Sequence[Any] | Json | None" = None) -> "pl.DataFrame":
        """The result of one SELECT as a polars DataFrame, through the locked connection."""
        with self.connect(locked=True, at_once=False) as connection:
            return connection.sql(query, parameters)

    def scan(self, table: str, run: str | None = None) -> "pl.LazyFrame":
        """A polars LazyFrame over one table's committed files; vectors as binary."""
        from .reading.frames import scan_files, scan_runs

        if table not in TABLES:
            raise NotFoundError(f"There is no table {table!r}.{did_you_mean(table, TABLES, show=40)}")
        snapshot = self.snapshot(run)
        if table == "runs":
            return scan_runs(self.runs_table(), list(snapshot.runs))
        return scan_files(TABLES[table], snapshot)

    @overload
    def vectors(
        self, layer: int, site: str, run: str | None = None, *, raw: bool = False, batch_rows: int = 8192
    ) -> "Iterator[tuple[pa.Table, np.ndarray]]": ...

    @overload
    def vectors(
        self,
        layer: int,
        site: str,
        run: str | None = None,
        *,
        where: str,
        join: Sequence[str] = (),
        raw: bool = False,
        batch_rows: int = 8192,
    ) -> "Selected": ...

    @overload
    def vectors(
        self,
        layer: int,
        site: str,
        run: str | None = None,
        *,
        where: str | None = None,
        join: Sequence[str],
        raw: bool = False,
        batch_rows: int = 8192,
    ) -> "Selected": ...

    def vectors(
        self,
        layer: int,
        site: str,
        run: str | None = None,
        *,
        where: str | None = None,
        join: Sequence[str] = (),
        raw: bool = False,
        batch_rows: int = 8192,
    ) -> "Iterator[tuple[pa.Table, np.ndarray]] | Selected":
        """Vectors of one layer (negative: from the last) and site, the file's batches or a selection.

        Alone: batches of (key columns, matrix [rows, dim]) in file order. With `where` (SQL over the columns of
        `token_steps` and `sequences`, and `generated`, `last`) or `join` (columns to return): one matrix and one polars
        frame, row by row, sorted by key; tokens without a vector are left out.
        bfloat16, float16 and int8 come as float32, unless `raw` asks for what is stored.
        """
        from .reading.batches import read_vectors

        snapshot = self.snapshot(run)
        if where is None and not join:
            return read_vectors(snapshot, layer, site, raw=raw, batch_rows=batch_rows)
        import pyarrow.compute as pc

        from .reading.selection import chosen_rows, select_vectors

        with self.connect(run=run, locked=True) as connection:
            rows = chosen_rows(connection, where, [join] if isinstance(join, str) else join)
        ids = rows["sequence_id"]
        span = (pc.call_function("min", [ids]).as_py(), pc.call_function("max", [ids]).as_py())
        return select_vectors(rows, read_vectors(snapshot, layer, site, raw=raw, batch_rows=batch_rows, sequences=span))

    def blob(self, run: str, name: str) -> bytes:
        """The latest blob of this name that a run committed, its checksum verified."""
        from .blobs import find_blob, read_blob

        run_id = self.resolve_run(run)
        return read_blob(self.store, find_blob(self.snapshot(run_id).runs[run_id], name))

    def analyses(self, run: str | None = None) -> "list[StoredAnalysis]":
        """What was computed from the lake's runs and is stored, oldest first within each run."""
        from .derived import stored_analyses

        logs = [log for log in self.snapshot(run).runs.values() if not log.removed]
        return [analysis for log in logs for analysis in stored_analyses(log).values()]

    def verify(self, level: str = "quick", run: str | None = None) -> "Verification":
        """Check what is on disk against the records: quick (names, sizes, footers), full (checksums), deep (values)."""
        from .upkeep.verify import verify

        return verify(self.store, level, None if run is None else self.resolve_run(run))

    def remove(self, run_id: str, *, dry_run: bool = True, now: bool = False) -> "Removal":
        """Remove a run: its rows vanish at once, its files go to the trash (`now`: are deleted)."""
        from .upkeep.removal import remove

        buried = now and run_id in run_ids(self.store)  # a removed run may still be deleted for good
        named = run_id if buried else self.resolve_run(run_id)
        return remove(self.store, named, dry_run=dry_run, now=now)

    def vacuum(self, older_than_days: float = 7, dry_run: bool = True) -> "Vacuumed":
        """Delete old trash and leftovers of dead writers."""
        from .upkeep.vacuum import vacuum

        return vacuum(self.store, older_than_days=older_than_days, dry_run=dry_run)
