"""`Lake`: a directory of tables. Opens it, starts and resumes runs, and reads what is committed."""

import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from . import commits
from .disk import Disk, Folders, explained
from .errors import ConfigError, DamageError, LockedError, NewerFormatError, NotFoundError, UsageError, did_you_mean
from .layout import RUN_ID, WRITER, Layout, check_name
from .locks import WriterLock
from .schema import SCHEMA_VERSION, TABLES
from .snapshot import Snapshot, read_run, read_run_json, run_ids, take_snapshot

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from .derived import AnalysisRemoval, StoredAnalysis
    from .duck import Connection
    from .maintenance import Removal, Vacuumed
    from .selection import Selected
    from .verify import Report
    from .writer import RunWriter

FORMAT_VERSION = 1


class Lake:
    """One lake on disk. Cheap to make: nothing is read before it is asked for."""

    def __init__(self, path: str | Path, *, disk: Disk | None = None) -> None:
        self.path = Path(path).absolute()
        self.layout = Layout(self.path)
        self.disk = disk or Disk()

    # -- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path, *, disk: Disk | None = None) -> Self:
        """Open the lake at `path`, making it if there is none."""
        lake = cls(path, disk=disk)
        if not lake.layout.marker.exists():
            with explained(f"making the lake {lake.path}"):
                lake._make()
        return cls.open(path, disk=disk)

    @classmethod
    def open(cls, path: str | Path, *, disk: Disk | None = None) -> Self:
        """Open an existing lake; NotFoundError if there is none, NewerFormatError if it is from a later version."""
        lake = cls(path, disk=disk)
        try:
            marker = json.loads(lake.disk.read(lake.layout.marker))
            version = int(marker["format_version"])
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(
                f"There is no lake at {lake.path}. `lake collect --lake {path}` makes one; "
                "or name another with --lake or TRACELAKE_LAKE."
            ) from None
        except OSError as error:
            raise ConfigError(f"The lake at {lake.path} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DamageError(f"{lake.layout.marker} is damaged: {error}.") from error
        if version > FORMAT_VERSION:
            raise NewerFormatError(
                f"The lake at {lake.path} has format {version}; this tracelake reads up to {FORMAT_VERSION}. "
                "Install a newer tracelake."
            )
        return lake

    def check_writable(self) -> None:
        """Raise ConfigError (or DiskFullError) if this process cannot write here."""
        probe = self.layout.all_staging / f"probe-{secrets.token_hex(4)}.part"
        with explained(f"writing to the lake {self.path}"):
            Folders(self.disk, self.path).make([self.layout.all_staging])
            file = self.disk.create(probe)
            file.close()
            self.disk.unlink(probe)

    def _make(self) -> None:
        for path in reversed([self.path, *self.path.parents]):
            if not path.exists():
                self.disk.make_folder(path)
                self.disk.sync_folder(path.parent)
        layout = self.layout
        folders = Folders(self.disk, self.path)
        folders.make([layout.data, layout.runs, layout.all_staging, layout.locks, layout.trash])
        body = {"format_version": FORMAT_VERSION, "lake_id": secrets.token_hex(8), "created_at": commits.now()}
        draft = layout.all_staging / f"lake-{secrets.token_hex(4)}.part"
        try:
            commits.publish(self.disk, (json.dumps(body, indent=2) + "\n").encode(), draft, layout.marker)
        except LockedError:
            return  # another process made it in the same moment: as good as ours

    # -- writing ---------------------------------------------------------------------------------------------------

    def start_run(self, run_id: str, run_json: dict[str, Any], writer: str = "w0") -> "RunWriter":
        """Publish run.json and open the run for writing; LockedError or UsageError if the run exists."""
        from .writer import RunWriter

        check_name(run_id, RUN_ID, "run id")
        body = {"run_id": run_id, "format_version": FORMAT_VERSION, "schema_version": SCHEMA_VERSION}
        body |= {"created_at": commits.now()} | run_json
        if body["run_id"] != run_id:
            raise UsageError(f"run.json is of run {body['run_id']!r}, not {run_id!r}.")
        data = (json.dumps(body, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
        lock = self._take_lock(run_id, writer)
        try:
            if self.layout.run(run_id).exists() and self.disk.names(self.layout.run(run_id)) not in ([], ["commits"]):
                raise UsageError(f"Run {run_id!r} exists already. Resume it, or choose another id.")
            with explained(f"starting run {run_id}"):
                folders = Folders(self.disk, self.path)
                folders.make([self.layout.commits(run_id), self.layout.staging(run_id, writer)])
                draft = self.layout.staging(run_id, writer) / "run.json.part"
                commits.publish(self.disk, data, draft, self.layout.run_json(run_id))
            return RunWriter(self.disk, self.layout, run_id, writer, lock=lock)
        except BaseException:
            lock.release()
            raise

    def resume_run(self, run_id: str, writer: str = "w0") -> "RunWriter":
        """Open an existing run for writing; LockedError if this writer is at work in another process."""
        from .writer import RunWriter

        run_id = self.resolve_run(run_id)
        lock = self._take_lock(run_id, writer)
        try:
            if self.layout.tombstone(run_id).exists():
                raise NotFoundError(f"Run {run_id!r} was removed.")
            return RunWriter(self.disk, self.layout, run_id, writer, lock=lock)
        except BaseException:
            lock.release()
            raise

    def _take_lock(self, run_id: str, writer: str) -> WriterLock:
        path = self.layout.lock(check_name(run_id, RUN_ID, "run id"), check_name(writer, WRITER, "writer id"))
        with explained(f"locking run {run_id}"):
            Folders(self.disk, self.path).make([self.layout.locks])
            return WriterLock(path).acquire(f"run {run_id} (writer {writer})")

    # -- reading ---------------------------------------------------------------------------------------------------

    def snapshot(self, run: str | None = None) -> Snapshot:
        """The commits that exist now, of all runs or of one."""
        return take_snapshot(self.disk, self.layout, None if run is None else self.resolve_run(run))

    def runs(self) -> list[dict[str, Any]]:
        """One dict per run, oldest first, with the columns of the table `runs`."""
        from .runs import run_rows

        return run_rows(self.snapshot().runs.values(), self.layout)

    def runs_table(self) -> "pa.Table":
        """The table `runs` in Arrow."""
        from .runs import runs_table

        return runs_table(self.runs())

    def run_json(self, run: str) -> dict[str, Any]:
        """Configuration and provenance of a run."""
        return read_run_json(self.disk, self.layout, self.resolve_run(run))[0]

    def run_status(self, run: str) -> str:
        """running, complete, interrupted or failed."""
        from .runs import status

        return status(read_run(self.disk, self.layout, self.resolve_run(run)), self.layout)

    def resolve_run(self, text: str) -> str:
        """The id of the run that `text` means: an id, a unique prefix, a tag, or `latest`."""
        from .runs import resolve

        known = []
        for run_id in run_ids(self.disk, self.layout):
            if run_id == text and not self.layout.tombstone(run_id).exists():
                return run_id
            body = read_run_json(self.disk, self.layout, run_id)[0]
            removed = self.layout.tombstone(run_id).exists()
            known.append((str(body.get("created_at") or ""), run_id, body.get("tag"), removed))
        return resolve(text, [(run_id, tag, removed) for _, run_id, tag, removed in sorted(known, key=lambda k: k[:2])])

    def connect(
        self, *, run: str | None = None, extra_views: Sequence[tuple[str, str, str]] = (), locked: bool = False
    ) -> "Connection":
        """A DuckDB connection with a view per table (name, SQL and comment of further views may be given).

        `locked` allows single SELECTs over the lake's own files and nothing else.
        """
        from .duck import Connection
        from .runs import run_rows

        run_id = None if run is None else self.resolve_run(run)
        snapshot = self.snapshot(run_id)
        rows = run_rows(snapshot.runs.values(), self.layout)
        return Connection(snapshot, rows, run=run_id, extra_views=extra_views, locked=locked)

    def sql(self, query: str, parameters: "Sequence[Any] | dict[str, Any] | None" = None) -> "pl.DataFrame":
        """The result of one SELECT as a polars DataFrame, through the locked connection."""
        with self.connect(locked=True) as connection:
            return connection.sql(query, parameters)

    def scan(self, table: str, run: str | None = None) -> "pl.LazyFrame":
        """A polars LazyFrame over one table's committed files; vectors as binary."""
        from .frames import scan_files, scan_runs

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
        from .batches import read_vectors

        snapshot = self.snapshot(run)
        if where is None and not join:
            return read_vectors(snapshot, layer, site, raw=raw, batch_rows=batch_rows)
        import pyarrow.compute as pc

        from .selection import chosen_rows, select_vectors

        with self.connect(run=run, locked=True) as connection:
            rows = chosen_rows(connection, where, [join] if isinstance(join, str) else join)
        ids = rows["sequence_id"]
        span = (pc.call_function("min", [ids]).as_py(), pc.call_function("max", [ids]).as_py())
        return select_vectors(rows, read_vectors(snapshot, layer, site, raw=raw, batch_rows=batch_rows, sequences=span))

    def analyses(self, run: str | None = None) -> "list[StoredAnalysis]":
        """What was computed from the lake's runs and is stored, oldest first within each run."""
        from .derived import stored_analyses

        logs = [log for log in self.snapshot(run).runs.values() if not log.removed]
        return [analysis for log in logs for analysis in stored_analyses(log).values()]

    # -- maintenance -----------------------------------------------------------------------------------------------

    def verify(self, level: str = "quick", run: str | None = None) -> "Report":
        """Check what is on disk against the records: quick (names, sizes, footers), full (SHA-256), deep (values)."""
        from .verify import verify

        return verify(self.disk, self.layout, level, None if run is None else self.resolve_run(run))

    def remove(self, run_id: str, *, dry_run: bool = True, now: bool = False) -> "Removal":
        """Remove a run: its rows vanish at once, its files go to the trash (`now`: are deleted)."""
        from .maintenance import remove

        buried = now and run_id in run_ids(self.disk, self.layout)  # a removed run may still be deleted for good
        found = run_id if buried else self.resolve_run(run_id)
        return remove(self.disk, self.layout, found, dry_run=dry_run, now=now)

    def remove_analysis(self, analysis_id: str, *, dry_run: bool = True, now: bool = False) -> "AnalysisRemoval":
        """Take an analysis out: its rows vanish at once, its files with `vacuum` (`now`: at once)."""
        from .derived import remove_analysis

        return remove_analysis(self, analysis_id, dry_run=dry_run, now=now)

    def vacuum(self, older_than_days: float = 7, dry_run: bool = True) -> "Vacuumed":
        """Delete old trash and leftovers of dead writers."""
        from .maintenance import vacuum

        return vacuum(self.disk, self.layout, older_than_days=older_than_days, dry_run=dry_run)
