"""DuckDB over a snapshot: table views, decoded vectors, and a locked connection for ad-hoc SQL.

Knows files by the lists a snapshot gives; never globs. It reaches them through a file system that only reads and checks
each file that is opened. Tables and views are made when a statement names them.
"""

import re
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from ..errors import DamageError, LakeError, NotFoundError, UsageError, did_you_mean
from ..output.notices import name_damaged
from ..reading.checked_files import CheckedFiles, committed_files
from ..reading.damage import changed_file, damaged_files
from ..schema import stored_tables
from ..snapshot import RunLog, Snapshot
from ..tables.run_row import RunRow
from ..tables.runs import RUNS
from ..tables.table import Table
from ..values import Json
from . import table_views as views
from .explanation import described
from .interruptible import interruptible
from .limits import limits
from .plain_rows import PlainRows, fetch_plain
from .quoting import literal, quoted
from .result_columns import for_polars, readable
from .statement import one_line, reading_statement

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from .read_only_files import ReadOnlyFiles

Answer = TypeVar("Answer")
Parameters = Sequence[Any] | Json | None
DAMAGED = "tracelake-damaged: "
_DECODING = re.compile(r"parquet|zstd|decompress|corrupt|page|thrift|UDF|No magic", re.I)
_FILES = "lake:///"
_WORD = re.compile(r"\w+")


class Connection:
    """A DuckDB connection with the views of one snapshot. Close it, or use it as a context manager."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        runs: Callable[[Iterable[RunLog]], Sequence[RunRow]],
        *,
        run: str | None = None,
        extra_views: Sequence[tuple[str, str, str]] = (),
        locked: bool = False,
    ) -> None:
        """`extra_views` are (name, SQL, comment): later ones may use earlier ones. `runs` makes rows of that table."""
        self._take_snapshot, self._rows_of_runs, self.locked, self.run = snapshot, runs, locked, run
        self._tables = {table.name: table for table in (RUNS, *stored_tables())}  # which no statement has named yet
        self._views = {name: (query, comment) for name, query, comment in extra_views}  # likewise
        self._reads = {name: set(_WORD.findall(query.lower())) for name, (query, _) in self._views.items()}
        self._known = {*self._tables, *self._views}
        self._made: dict[str, Table] = {}
        self._unexplained: list[str] = []  # comments that nobody has asked for yet
        self._named: set[str] = set()  # by the present statement
        self._damage: dict[str, DamageError] = {}  # by the text of a view that stands for a damaged table
        self._files: ReadOnlyFiles | None = None
        self._decodes = False
        self.duckdb = duckdb.connect(":memory:", config=limits())
        self._finalizer = weakref.finalize(self, self.duckdb.close)  # also at exit: DuckDB warns about open ones
        if locked:
            self._lock()

    @cached_property
    def snapshot(self) -> Snapshot:
        """The commits that are seen; a statement that names no table asks for none."""
        return self._take_snapshot()

    def execute(self, query: str, parameters: Parameters = None) -> "duckdb.DuckDBPyConnection":
        """Run a query and return the DuckDB connection to fetch from; when locked, exactly one SELECT."""
        return self._answer(query, parameters, lambda: self.duckdb.execute(query, parameters))

    def rows(self, query: str, parameters: Parameters = None) -> "PlainRows | pa.Table":
        """The result of a query as plain values where it is small and of plain types, otherwise as `arrow` gives it."""
        answer = self._answer(query, parameters, partial(fetch_plain, self.duckdb, query, parameters))
        return self.arrow(query, parameters) if answer is None else answer

    def arrow(self, query: str, parameters: Parameters = None) -> "pa.Table":
        """The result of a query as an Arrow table; DESCRIBE and SHOW TABLES say what things mean."""
        import pyarrow as pa

        try:
            return self._answer(
                query,
                parameters,
                lambda: described(self.duckdb, query, self._relation(query, parameters).to_arrow_table()),
            )
        except (pa.ArrowException, OverflowError, ValueError) as error:
            raise UsageError(f"Arrow has no such type or value: {error}. Cast it, e.g. to VARCHAR.") from error

    def sql(self, query: str, parameters: Parameters = None) -> "pl.DataFrame":
        """The result of a query as a polars DataFrame."""
        import polars as pl

        frame = pl.from_arrow(for_polars(self.arrow(query, parameters)))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def batches(self, query: str, parameters: Parameters = None, *, rows: int = 65_536) -> "Iterator[pa.RecordBatch]":
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
                    return interruptible(self.duckdb, ask)
            except DamageError as damage:
                if not self._leave_out(damage, query, parameters):
                    raise

    def _leave_out(self, damage: DamageError, query: str, parameters: Parameters) -> bool:
        """Read on without a damaged run, unless it was asked for, or no other has rows of the tables it is read for."""
        run_id = damage.run_id
        values = parameters.values() if isinstance(parameters, dict) else parameters or ()
        if self.run is not None or run_id not in self.snapshot.runs or run_id in values:
            return False
        if literal(run_id) in query:
            return False
        damaged: dict[str, LakeError] = {run_id: damage}
        rest = self.snapshot.without(damaged)
        if any(self.snapshot.files(table) and not rest.files(table) for table in self._named & set(self._made)):
            return False
        self.snapshot = rest
        name_damaged(self.snapshot.store.path, damaged)
        for table in self._made.values():
            self._make_table(table)
        return True

    def _relation(self, query: str, parameters: Parameters) -> "duckdb.DuckDBPyRelation":
        relation = self.duckdb.sql(query, params=parameters)
        if relation is None:
            raise UsageError("This statement has no result; use execute() for it.")
        return readable(relation)

    def names(self) -> list[str]:
        """Names of all views and tables, those that the caller made too."""
        made = self.duckdb.execute("SELECT table_name FROM information_schema.tables").fetchall()
        return sorted(self._known.union(name for (name,) in made))

    def close(self) -> None:
        """Close the connection; harmless when closed."""
        self._finalizer()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, query: str) -> None:
        """Check the statement if the connection is locked, and make the views that it names.

        Only those: making them all costs more than most answers. A statement that asks what there is gets all of them
        to look at, and one that names something else too, which may be DuckDB's own catalogue.
        """
        self._named = set(self._known)
        if not (self.locked or self._tables or self._views or self._unexplained):
            return
        try:
            statement = reading_statement(self.duckdb, query)
        except UsageError:
            if self.locked:
                raise
            self._make(self._known)  # whatever it does, it may read any table
            return self._explain()
        lists = statement.asks_what_there_is or bool(statement.tables - statement.own - self._known)
        if lists:
            self._show_all()
        self._make(statement.tables)
        if lists or statement.describes:
            self._explain()

    def _make(self, names: Collection[str]) -> None:
        """Make the tables and views named, and those that named views read."""
        wanted, seen = set(names), set()
        while unseen := (wanted & set(self._reads)) - seen:
            seen |= unseen
            wanted |= set().union(*(self._reads[name] for name in unseen))
        self._named = wanted
        for name in [name for name in self._tables if name in wanted]:
            table = self._tables.pop(name)
            if table is RUNS:
                self._make_runs()
            else:
                self._made[name] = table
                self._make_table(table)
        self._make_views(wanted)

    def _show_all(self) -> None:
        """All tables and views, typed and explained; no file of a table is opened before a statement names it."""
        filled = {file.entry.table for file in committed_files(self.snapshot, run=self.run)}
        for name, table in self._tables.items():
            if name in filled and table is not RUNS:
                self.duckdb.execute(views.unbound_view_sql(table))
                self.duckdb.execute(views.comments_sql(table))
        self._make({name for name in self._tables if name not in filled})
        self._make_views(self._views)

    def _explain(self) -> None:
        """Put the comments on what has been made: most of the time of making it, and few statements ask for them."""
        comments, self._unexplained = self._unexplained, []
        for text in comments:
            self.duckdb.execute(text)

    def _make_views(self, names: Collection[str]) -> None:
        for name in [name for name in self._views if name in names]:
            query, comment = self._views.pop(name)
            self.duckdb.execute(f"CREATE VIEW {quoted(name)} AS {query.strip().rstrip(';')}")
            self._unexplained.append(f"COMMENT ON VIEW {quoted(name)} IS {literal(comment)}")

    def _make_runs(self) -> None:
        rows = self._rows_of_runs(self.snapshot.runs.values())
        self.duckdb.execute(views.runs_sql(RUNS), [views.runs_json(rows)]).fetchall()
        self._unexplained.append(views.comments_sql(RUNS).replace("COMMENT ON VIEW", "COMMENT ON TABLE", 1))

    def _make_table(self, table: Table) -> None:
        """One table's view; if its files are damaged, one that says so when it is read: other tables stay usable."""
        groups = self.snapshot.files_by_columns(table.name, self.run)
        if groups:
            self._open_files()
        if table.vector is not None:
            self._make_decoder()
        for index, entries in enumerate(groups.values()):
            paths = [_FILES + entry.path for entry in entries]
            self.duckdb.execute(f"SET VARIABLE {views.variable(table, index)} = $1", [paths])
        try:
            self.duckdb.execute(views.view_sql(table, list(groups)))
        except duckdb.Error as error:
            damage = _translate(self, error)
            if not isinstance(damage, DamageError):
                raise damage from error
            self._damage[str(damage)] = damage
            self.duckdb.execute(views.broken_view_sql(table, DAMAGED + str(damage)))
        self._unexplained.append(views.comments_sql(table))

    def _open_files(self) -> None:
        """Make the snapshot's files known to DuckDB."""
        if self._files is None:
            from .read_only_files import ReadOnlyFiles  # fsspec takes a tenth of a second: not for `select 1`

            files = {file.entry.path: file for file in committed_files(self.snapshot, run=self.run)}
            self._files = ReadOnlyFiles(files, CheckedFiles(self.snapshot.store))
            self.duckdb.register_filesystem(self._files)

    def _make_decoder(self) -> None:
        """The function that turns stored vectors into lists, once a table that has some is named."""
        if not self._decodes:
            from ..vectors import decode_column  # numpy and Arrow: not for `select 1`

            self._decodes = True
            self.duckdb.create_function(
                views.DECODER,
                decode_column,
                ["BLOB", "VARCHAR", "FLOAT"],  # type: ignore[list-item]
                "FLOAT[]",  # type: ignore[arg-type]
                type="arrow",  # type: ignore[arg-type]
                null_handling="special",  # type: ignore[arg-type]
            )

    def damage(self, text: str) -> DamageError:
        """The damage that a view of ours told."""
        return self._damage.get(text) or DamageError(text)

    def _lock(self) -> None:
        self.duckdb.execute(f"SET allowed_directories = [{literal(_FILES)}]")
        for setting in ("enable_external_access = false", "lock_configuration = true"):
            self.duckdb.execute(f"SET {setting}")

    def take_refusal(self) -> LakeError | None:
        """The error that the files raised since the last call, if any."""
        if self._files is None:
            return None
        refused, self._files.refused = self._files.refused, None
        return refused


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
