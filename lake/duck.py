"""DuckDB over a snapshot: table views, decoded vectors, and a locked connection for ad-hoc SQL.

Knows files by the lists a snapshot gives; never globs.
"""

import json
import os
import re
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from . import views
from .commits import FileEntry
from .damage import changed_file, damaged_files
from .errors import DamageError, LakeError, NotFoundError, UsageError, did_you_mean
from .explanation import explained
from .layout import DATA
from .schema import stored_tables
from .snapshot import Snapshot
from .table import Table
from .tables.runs import RUNS
from .vectors import decode_column

if TYPE_CHECKING:
    import polars as pl

Parameters = Sequence[Any] | dict[str, Any] | None
DAMAGED = "tracelake-damaged: "
_DECODING = re.compile(r"parquet|zstd|decompress|corrupt|page|thrift|UDF|No magic", re.I)


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
        self.duckdb = duckdb.connect(":memory:", config=_limits())
        self._finalizer = weakref.finalize(self, self.duckdb.close)  # also at exit: DuckDB warns about open ones
        self._create_views(runs, run)
        for name, query, comment in extra_views:
            with translated(self):
                self.duckdb.execute(f"CREATE VIEW {views.quoted(name)} AS {query.strip().rstrip(';')}")
                self.duckdb.execute(f"COMMENT ON VIEW {views.quoted(name)} IS {views.literal(comment)}")
        if locked:
            self._lock()

    def execute(self, query: str, parameters: Parameters = None) -> "duckdb.DuckDBPyConnection":
        """Run a query and return the DuckDB connection to fetch from; when locked, exactly one SELECT."""
        if self.locked:
            check_single_select(self.duckdb, query)
        with translated(self):
            return self.duckdb.execute(query, parameters)

    def arrow(self, query: str, parameters: Parameters = None) -> pa.Table:
        """The result of a query as an Arrow table; DESCRIBE and SHOW TABLES say what things mean."""
        with translated(self):
            return explained(self.duckdb, query, self._relation(query, parameters).to_arrow_table())

    def sql(self, query: str, parameters: Parameters = None) -> "pl.DataFrame":
        """The result of a query as a polars DataFrame."""
        import polars as pl

        frame = pl.from_arrow(self.arrow(query, parameters))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def batches(self, query: str, parameters: Parameters = None, *, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The result of a query as Arrow batches, so that it need not fit in memory."""
        with translated(self):
            yield from self._relation(query, parameters).to_arrow_reader(rows)

    def _relation(self, query: str, parameters: Parameters) -> "duckdb.DuckDBPyRelation":
        if self.locked:
            check_single_select(self.duckdb, query)
        relation = self.duckdb.sql(query, params=parameters)
        if relation is None:
            raise UsageError("This statement has no result; use execute() for it.")
        return relation

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

    def _create_views(self, runs: Sequence[dict[str, Any]], run: str | None) -> None:
        con = self.duckdb
        con.create_function(
            views.DECODER,
            decode_column,
            ["BLOB", "VARCHAR", "FLOAT"],  # type: ignore[list-item]
            "FLOAT[]",  # type: ignore[arg-type]
            type="arrow",  # type: ignore[arg-type]
            null_handling="special",  # type: ignore[arg-type]
        )
        # DuckDB reads every k=v folder as a partition; above the lake there may be others of the same name.
        hive = "=" not in self.snapshot.store.url("")
        script = []
        for table in stored_tables():
            groups = self.snapshot.files_by_columns(table.name, run)
            self._create_view(table, groups, hive=hive)
            script.append(views.comments_sql(table))
        # As JSON: building an Arrow table from Python values would import pandas wherever it is installed.
        rows = json.dumps(
            [{k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()} for row in runs]
        )
        con.execute(views.runs_sql(RUNS), [rows]).fetchall()
        script.append(views.comments_sql(RUNS).replace("COMMENT ON VIEW", "COMMENT ON TABLE", 1))
        with translated(self):
            con.execute("\n".join(script))

    def _create_view(self, table: Table, groups: dict[tuple[str, ...], list[FileEntry]], *, hive: bool) -> None:
        """One table's view; if its files are damaged, one that says so when it is read: other tables stay usable."""
        try:
            for index, entries in enumerate(groups.values()):
                name = views.variable(table, index)
                self.duckdb.execute(f"SET VARIABLE {name} = $1", [self.snapshot.urls(entries)])
            self.duckdb.execute(views.view_sql(table, list(groups), hive=hive))
        except (duckdb.Error, DamageError) as error:
            damage = error if isinstance(error, DamageError) else _translate(self, error)
            if not isinstance(damage, DamageError):
                raise damage from error
            self.duckdb.execute(views.broken_view_sql(table, DAMAGED + str(damage)))

    def _lock(self) -> None:
        self.duckdb.execute(f"SET allowed_directories = [{views.literal(self.snapshot.store.url(DATA))}]")
        for setting in ("enable_external_access = false", "lock_configuration = true"):
            self.duckdb.execute(f"SET {setting}")


def _limits() -> dict[str, Any]:
    """Settings of every connection: nothing is downloaded, variables of the caller are no tables, memory is bounded."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        "threads": str(cores),
        "memory_limit": "60%",  # beyond it DuckDB spills, to the system's folder rather than the caller's
        "temp_directory": os.path.join(tempfile.gettempdir(), f"tracelake-{os.getpid()}"),
    }


def check_single_select(connection: "duckdb.DuckDBPyConnection", query: str) -> None:
    """Refuse anything but one SELECT (also FROM, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW)."""
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise UsageError(f"The SQL cannot be parsed: {_text(error)}") from None
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        given = ", ".join(kinds) or "none"
        hint = (
            " Write PIVOT as `FROM (PIVOT t ON c IN (...) USING ...)`."
            if "MULTI" in kinds or "pivot" in query.lower()
            else ""
        )
        raise UsageError(
            f"Exactly one SELECT is possible here (also FROM, WITH, DESCRIBE, SUMMARIZE, SHOW); given: {given}.{hint} "
            "For anything else use `Lake.connect()` in Python."
        )


@contextmanager
def translated(connection: Connection) -> Iterator[None]:
    """Turn DuckDB's errors into ours: what is misspelt, what is forbidden, what is damaged."""
    try:
        yield
    except duckdb.Error as error:
        raise _translate(connection, error) from error


def _translate(connection: Connection, error: duckdb.Error) -> LakeError:
    text = _text(error)
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
        return DamageError(marked[1])
    odd = duckdb.IOException | duckdb.SerializationException | duckdb.InternalException
    if not isinstance(error, odd) and type(error) is not duckdb.Error and not _DECODING.search(text):
        return None
    snapshot, run = connection.snapshot, connection.run
    for path, run_id, why in damaged_files(snapshot, run):
        return DamageError(f"{path} of run {run_id} {why}. Run `lake verify` to see what is hit.")
    if changed := changed_file(snapshot, run):
        path, run_id = changed
        return DamageError(
            f"{path} of run {run_id} is not what was committed. Run `lake verify --level full`. ({text})"
        )
    return DamageError(f"A file of the lake cannot be decoded; run `lake verify --level full` to find it. ({text})")


def _text(error: duckdb.Error) -> str:
    """DuckDB's message on one line, without the echo of the query."""
    return " ".join(str(error).split("\n\nLINE")[0].split())
