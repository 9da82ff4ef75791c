"""DuckDB over a snapshot: table views, decoded vectors, and a locked connection for ad-hoc SQL.

Knows files by the lists a snapshot gives; never globs. It reaches them through a file system that only reads and checks
each file that is opened. A table's files are looked at when a statement names the table.
"""

import json
import os
import re
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
import pyarrow as pa

from . import views
from .checked_files import CheckedFiles, committed_files
from .damage import changed_file, damaged_files
from .errors import DamageError, LakeError, NotFoundError, UsageError, did_you_mean
from .explanation import explained
from .notices import name_damaged
from .result_columns import for_polars, readable
from .schema import stored_tables
from .snapshot import Snapshot
from .statement import one_line, reading_statement
from .table import Table
from .tables.runs import RUNS
from .vectors import decode_column

if TYPE_CHECKING:
    import polars as pl

    from .read_only_files import ReadOnlyFiles

Answer = TypeVar("Answer")
Parameters = Sequence[Any] | dict[str, Any] | None
DAMAGED = "tracelake-damaged: "
_DECODING = re.compile(r"parquet|zstd|decompress|corrupt|page|thrift|UDF|No magic", re.I)
_FILES = "lake:///"
_WORD = re.compile(r"\w+")


class Connection:
    """A DuckDB connection with the views of one snapshot. Close it, or use it as a context manager."""

    def __init__(
        self,
        snapshot: Snapshot,
        runs: Sequence[dict[str, Any]],
        *,
        run: str | None = None,
        extra_views: Sequence[tuple[str, str, str]] = (),
        locked: bool = False,
    ) -> None:
        self.snapshot, self.locked = snapshot, locked
        self.run = run
        self._tables = {table.name: table for table in stored_tables()}  # whose files no statement has named yet
        self._bound: dict[str, Table] = {}
        self._damage: dict[str, DamageError] = {}  # by the text of a view that stands for a damaged table
        self._extra = {name: set(_WORD.findall(query.lower())) for name, query, _ in extra_views}
        self._files: ReadOnlyFiles | None = None
        self.duckdb = duckdb.connect(":memory:", config=_limits())
        self._finalizer = weakref.finalize(self, self.duckdb.close)  # also at exit: DuckDB warns about open ones
        self._create_views(runs)
        for name, query, comment in extra_views:
            with translated(self):
                self.duckdb.execute(f"CREATE VIEW {views.quoted(name)} AS {query.strip().rstrip(';')}")
                self.duckdb.execute(f"COMMENT ON VIEW {views.quoted(name)} IS {views.literal(comment)}")
        if locked:
            self._lock()

    def execute(self, query: str, parameters: Parameters = None) -> "duckdb.DuckDBPyConnection":
        """Run a query and return the DuckDB connection to fetch from; when locked, exactly one SELECT."""
        return self._answer(query, parameters, lambda: self.duckdb.execute(query, parameters))

    def arrow(self, query: str, parameters: Parameters = None) -> pa.Table:
        """The result of a query as an Arrow table; DESCRIBE and SHOW TABLES say what things mean."""
        try:
            return self._answer(
                query,
                parameters,
                lambda: explained(self.duckdb, query, self._relation(query, parameters).to_arrow_table()),
            )
        except (pa.ArrowException, OverflowError, ValueError) as error:
            raise UsageError(f"Arrow has no such type or value: {error}. Cast it, e.g. to VARCHAR.") from error

    def sql(self, query: str, parameters: Parameters = None) -> "pl.DataFrame":
        """The result of a query as a polars DataFrame."""
        import polars as pl

        frame = pl.from_arrow(for_polars(self.arrow(query, parameters)))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def batches(self, query: str, parameters: Parameters = None, *, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The result of a query as Arrow batches, so that it need not fit in memory.

        Damage that is met behind the first batch is an error: what was given cannot be taken back.
        """

        def begin() -> "tuple[pa.RecordBatchReader, pa.RecordBatch | None]":
            reader = self._relation(query, parameters).to_arrow_reader(rows)
            return reader, next(iter(reader), None)

        reader, first = self._answer(query, parameters, begin)
        if first is not None:
            yield first
            with translated(self):
                yield from reader

    def _answer(self, query: str, parameters: Parameters, ask: Callable[[], Answer]) -> Answer:
        """What `ask` gives for a query, its tables bound; of all runs one with damaged files is named and left out."""
        while True:
            try:
                with translated(self):
                    self._prepare(query)
                    return ask()
            except DamageError as damage:
                if not self._leave_out(damage, query, parameters):
                    raise

    def _leave_out(self, damage: DamageError, query: str, parameters: Parameters) -> bool:
        """Read on without a damaged run, unless it was asked for, or no other has rows of the tables it is read for."""
        run_id = damage.run_id
        values = parameters.values() if isinstance(parameters, dict) else parameters or ()
        if self.run is not None or run_id not in self.snapshot.runs or run_id in values:
            return False
        if views.literal(run_id) in query:
            return False
        damaged: dict[str, LakeError] = {run_id: damage}
        rest = self.snapshot.without(damaged)
        if any(self.snapshot.files(table) and not rest.files(table) for table in self._bound):
            return False
        self.snapshot = rest
        name_damaged(self.snapshot.store.path, damaged)
        self._tables |= self._bound
        self._bind(list(self._bound))
        return True

    def _relation(self, query: str, parameters: Parameters) -> "duckdb.DuckDBPyRelation":
        relation = self.duckdb.sql(query, params=parameters)
        if relation is None:
            raise UsageError("This statement has no result; use execute() for it.")
        return readable(relation)

    def names(self) -> list[str]:
        """Names of all views and tables."""
        return [name for (name,) in self.duckdb.execute("SELECT table_name FROM information_schema.tables").fetchall()]

    def close(self) -> None:
        """Close the connection; harmless when closed."""
        self._finalizer()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, query: str) -> None:
        """Check the statement if the connection is locked, and bind the tables that it names to their files."""
        if self.locked:
            return self._bind(reading_statement(self.duckdb, query).tables)
        if self._tables:
            try:
                self._bind(reading_statement(self.duckdb, query).tables)
            except UsageError:  # whatever it does, it may read any table
                self._bind(self._tables)
        return None

    def _bind(self, names: Collection[str]) -> None:
        """Give tables their files: those named, and those that named views read."""
        wanted, seen = set(names), set()
        while unseen := (wanted & set(self._extra)) - seen:
            seen |= unseen
            wanted |= set().union(*(self._extra[name] for name in unseen))
        for name in wanted & set(self._tables):
            table = self._bound[name] = self._tables.pop(name)
            groups = self.snapshot.files_by_columns(table.name, self.run)
            if not groups:
                continue
            self._open_files()
            for index, entries in enumerate(groups.values()):
                paths = [_FILES + entry.path for entry in entries]
                self.duckdb.execute(f"SET VARIABLE {views.variable(table, index)} = $1", [paths])
            self._create_view(table, views.view_sql(table, list(groups)))
            self.duckdb.execute(views.comments_sql(table))

    def _open_files(self) -> None:
        """Make the snapshot's files known to DuckDB."""
        if self._files is None:
            from .read_only_files import ReadOnlyFiles  # fsspec takes a tenth of a second: not for `select 1`

            files = {file.entry.path: file for file in committed_files(self.snapshot, run=self.run)}
            self._files = ReadOnlyFiles(files, CheckedFiles(self.snapshot.store))
            self.duckdb.register_filesystem(self._files)

    def _create_views(self, runs: Sequence[dict[str, Any]]) -> None:
        con = self.duckdb
        con.create_function(
            views.DECODER,
            decode_column,
            ["BLOB", "VARCHAR", "FLOAT"],  # type: ignore[list-item]
            "FLOAT[]",  # type: ignore[arg-type]
            type="arrow",  # type: ignore[arg-type]
            null_handling="special",  # type: ignore[arg-type]
        )
        script = []
        filled = {file.entry.table for file in committed_files(self.snapshot, run=self.run)}
        for table in self._tables.values():
            script += [
                _unbound(table) if table.name in filled else views.view_sql(table, []),
                views.comments_sql(table),
            ]
        # As JSON: building an Arrow table from Python values would import pandas wherever it is installed.
        rows = json.dumps(
            [{k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()} for row in runs]
        )
        con.execute(views.runs_sql(RUNS), [rows]).fetchall()
        script.append(views.comments_sql(RUNS).replace("COMMENT ON VIEW", "COMMENT ON TABLE", 1))
        with translated(self):
            con.execute("\n".join(script))

    def _create_view(self, table: Table, query: str) -> None:
        """One table's view; if its files are damaged, one that says so when it is read: other tables stay usable."""
        try:
            self.duckdb.execute(query)
        except duckdb.Error as error:
            damage = _translate(self, error)
            if not isinstance(damage, DamageError):
                raise damage from error
            self._damage[str(damage)] = damage
            self.duckdb.execute(views.broken_view_sql(table, DAMAGED + str(damage)))

    def damage(self, text: str) -> DamageError:
        """The damage that a view of ours told."""
        return self._damage.get(text) or DamageError(text)

    def _lock(self) -> None:
        self.duckdb.execute(f"SET allowed_directories = [{views.literal(_FILES)}]")
        for setting in ("enable_external_access = false", "lock_configuration = true"):
            self.duckdb.execute(f"SET {setting}")

    def take_refusal(self) -> LakeError | None:
        """The error that the files raised since the last call, if any."""
        if self._files is None:
            return None
        refused, self._files.refused = self._files.refused, None
        return refused


def _unbound(table: Table) -> str:
    """The view of a table that no statement has named: typed, and an error rather than empty if it is read anyway."""
    return views.broken_view_sql(
        table, f"the files of {table.name} are not bound: a fault of tracelake, please report it"
    )


def _limits() -> dict[str, Any]:
    """Settings of every connection: nothing is downloaded, variables of the caller are no tables, memory is bounded."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        "threads": str(cores),
        "memory_limit": "60%",  # beyond it DuckDB spills, to the system's folder rather than the caller's
        "enable_external_file_cache": "false",  # it would fill the memory with what the system's page cache has already
        "temp_directory": os.path.join(tempfile.gettempdir(), f"tracelake-{os.getpid()}"),
    }


@contextmanager
def translated(connection: Connection) -> Iterator[None]:
    """Turn DuckDB's errors into ours: what is misspelt, what is forbidden, what is damaged."""
    try:
        yield
    except duckdb.Error as error:
        raise _translate(connection, error) from error


def _translate(connection: Connection, error: duckdb.Error) -> LakeError:
    text = one_line(error).replace(_FILES, "")
    if refused := connection.take_refusal():
        return refused
    if isinstance(error, duckdb.PermissionException):
        return UsageError(f"Not allowed in a locked connection: {text}")
    if isinstance(error, duckdb.CatalogException) and (
        found := re.search(r"Table with name (\S+) does not exist", text)
    ):
        return NotFoundError(f"There is no table {found[1]!r}.{did_you_mean(found[1], connection.names(), show=40)}")
    if isinstance(error, duckdb.BinderException) and "Candidate bindings" in text:
        return NotFoundError(text)
    if isinstance(error, duckdb.InterruptException):
        return LakeError("The query was interrupted.")
    if isinstance(error, duckdb.OutOfMemoryException):
        return LakeError(f"The query needs more memory than allowed: {text}")
    if damage := _damage(connection, error, text):
        return damage
    return UsageError(text)


def _damage(connection: Connection, error: duckdb.Error, text: str) -> DamageError | None:
    """The damaged file behind an error, if there is one: marked, visibly damaged, named by DuckDB, or found by hash."""
    if marked := re.search(f"{DAMAGED}(.*)", text):
        return connection.damage(marked[1])
    odd = duckdb.IOException | duckdb.SerializationException | duckdb.InternalException
    if not isinstance(error, odd) and type(error) is not duckdb.Error and not _DECODING.search(text):
        return None
    snapshot, run = connection.snapshot, connection.run
    for path, run_id, why in damaged_files(snapshot, run):
        return DamageError(f"{path} of run {run_id} {why}. Run `lake verify` to see what is hit.", run_id=run_id)
    if changed := changed_file(snapshot, run):
        path, run_id = changed
        why = f"is not what was committed. Run `lake verify --level full`. ({text})"
        return DamageError(f"{path} of run {run_id} {why}", run_id=run_id)
    return DamageError(f"A file of the lake cannot be decoded; run `lake verify --level full` to find it. ({text})")
