"""Saved queries: one `.sql` file, one SELECT, its documentation and chart in the comments (see `header`).

Values reach DuckDB as bound `$parameters` only; no SQL is built from them. Knows nothing of charts.
"""

import atexit
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from importlib import resources
from pathlib import PurePath
from typing import TYPE_CHECKING

import duckdb

from ..lake.errors import ConfigError, LakeError, NotFoundError, UsageError, did_you_mean
from ..lake.lake import Lake
from ..lake.query_files import FOLDER, query_files, read_query_file
from ..lake.records.layers import layer_number
from ..lake.sql.statement import parsed, reading_statement
from .charts.axis_titles import axis_title, is_plain
from .header import Header, Parameter, Value, parse_header

if TYPE_CHECKING:
    import polars
    import pyarrow

    from ..lake.sql.duck import Connection

ResolveRun = Callable[[str], str]
_PACKAGE = __name__.rpartition(".")[0]
_FILE_NAME = re.compile(r"[a-z][a-z0-9_]*\.sql")
OF_TABLE = "latest:"
"""Begins a default that means the newest run with rows of the table named after it."""
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_MEANINGS = {"BIGINT": "a whole number", "DOUBLE": "a number", "BOOLEAN": "true or false", "TEXT": "text"}
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class SavedQuery:
    """A named SELECT with parameters; `source` is `tracelake` or, for a file in LAKE/queries, `lake`."""

    name: str
    source: str
    file: PurePath
    sql: str
    header: Header
    text: str = ""
    """The whole file, header included: a copy of it is a saved query."""

    @property
    def summary(self) -> str:
        """One sentence: what the query answers."""
        return self.header.summary

    @property
    def has_chart(self) -> bool:
        """Whether the header says how to draw the rows."""
        return self.header.mark is not None

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Declared parameters by name."""
        return {parameter.name: parameter for parameter in self.header.parameters}

    def run(
        self, connection: "Connection", resolve_run: ResolveRun | None = None, /, **params: object
    ) -> "polars.DataFrame":
        """The rows, with `params` converted from text where needed; `resolve_run` turns a tag or prefix into an id."""
        return self.execute(connection, self.bind(connection, params, resolve_run))

    def execute(self, connection: "Connection", values: Mapping[str, Value]) -> "polars.DataFrame":
        """The rows for values that `bind` returned."""
        return self.fetch(connection, self.sql, values)

    def fetch(self, connection: "Connection", sql: str, values: Mapping[str, Value]) -> "polars.DataFrame":
        """The rows of SQL made from this query's; errors name the query, whole-number sums come as Int64."""
        import polars as pl

        with self._named_errors():
            rows = connection.sql(sql, dict(values) or None)
        whole = [name for name, kind in rows.schema.items() if isinstance(kind, pl.Decimal) and kind.scale == 0]
        fitting = [
            name for name in whole if rows[name].cast(pl.Int64, strict=False).null_count() == rows[name].null_count()
        ]
        return rows.with_columns(pl.col(fitting).cast(pl.Int64)) if fitting else rows

    def arrow(self, connection: "Connection", values: Mapping[str, Value]) -> "pyarrow.Table":
        """The rows for values that `bind` returned, as Arrow: spares a short query polars."""
        with self._named_errors():
            return connection.arrow(self.sql, dict(values) or None)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except LakeError as error:
            raise type(error)(f"Query {self.name!r} ({self.file}): {error}") from error

    def bind(
        self,
        connection: "Connection",
        params: Mapping[str, object],
        resolve_run: ResolveRun | None = None,
    ) -> dict[str, Value]:
        """One value per declared parameter: given or default, of the declared type, runs resolved to ids."""
        for name in params:
            if name not in self.parameters:
                raise UsageError(f"Query {self.name!r} has no parameter {name!r}.{did_you_mean(name, self.parameters)}")
        values = {name: self._value(parameter, params) for name, parameter in self.parameters.items()}
        for name, value in values.items():
            parameter = self.parameters[name]
            if parameter.type == "RUN" and value is not None:
                meant = parameter.default if value == "latest" and parameter.default else value
                values[name] = _run_id(connection, str(meant), resolve_run)
            if self.parameters[name].type == "PROFILE" and value is not None:
                check_profile(connection, str(value))
        layer, run = values.get("layer"), values.get("run")
        if isinstance(layer, int) and layer < 0 and isinstance(run, str):
            values["layer"] = _from_the_last(connection, run, layer)
        return values

    def _value(self, parameter: Parameter, params: Mapping[str, object]) -> Value:
        given = params.get(parameter.name)
        if given is not None:
            return convert(self.name, parameter, given)
        if parameter.required:
            raise UsageError(
                f"Query {self.name!r} needs the parameter {parameter.name!r} ({parameter.doc.rstrip('.')}). "
                f"Give it with --param {parameter.name}=VALUE."
            )
        return None if parameter.default is None else convert(self.name, parameter, parameter.default)

    def titled(self, values: Mapping[str, Value]) -> "SavedQuery":
        """The query with the values of parameters in its titles, where the header asks for them."""
        words = {name: axis_title(str(value)) for name, value in values.items() if is_plain(str(value))}

        def filled(text: str | None) -> str | None:
            return text and re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[1]), text)

        channels = {name: replace(e, title=filled(e.title)) for name, e in self.header.channels.items()}
        return replace(self, header=replace(self.header, title=filled(self.header.title), channels=channels))

    def describe(self) -> dict[str, object]:
        """Plain values with stable keys; `description` is what follows the summary."""
        header = self.header
        chart = {"mark": header.mark} | {k: f"{e.field}:{e.type[0].upper()}" for k, e in header.channels.items()}
        return {
            "name": self.name,
            "source": self.source,
            "file": str(self.file),
            "summary": self.summary,
            "description": header.description.removeprefix(self.summary).strip(),
            "parameters": [
                {"name": p.name, "type": p.type, "default": p.default, "required": p.required, "doc": p.doc}
                for p in header.parameters
            ],
            "chart": chart if self.has_chart else None,
            "sql": self.sql,
            "text": self.text,
        }


def convert(query: str, parameter: Parameter, given: object) -> Value:
    """The value as the declared type; UsageError that says the type where it cannot be."""
    text = str(given).strip()
    value: Value = None
    if parameter.type in ("TEXT", "RUN", "PROFILE"):
        value = str(given)
    elif parameter.type == "BOOLEAN":
        value = _TRUTH.get(text.lower())
    elif parameter.type == "BIGINT" and re.fullmatch(r"[+-]?\d{1,19}", text) and int(text) in _INT64:
        value = int(text)
    elif parameter.type == "DOUBLE":
        value = _number(text)
    if value is None:
        meaning = _MEANINGS[parameter.type]
        raise UsageError(
            f"Query {query!r}: parameter {parameter.name!r} must be {meaning} ({parameter.type}), got {given!r}."
        )
    return value


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if number != number else number


def _run_id(connection: "Connection", text: str, resolve_run: ResolveRun | None) -> str | None:
    """The run's id; None for `latest` of a lake without runs, so that the query answers with no rows."""
    if text.startswith(OF_TABLE):
        text = _newest_with(connection, text.removeprefix(OF_TABLE)) or "latest"
    if text == "latest":
        newest = connection.execute(
            "SELECT run_id FROM runs WHERE status <> 'removed' ORDER BY created_at DESC, run_id DESC LIMIT 1"
        ).fetchall()
        if not newest or resolve_run is None:
            return newest[0][0] if newest else None
    return resolve_run(text) if resolve_run else text


def _newest_with(connection: "Connection", table: str) -> str | None:
    """The newest run that has committed rows of a table, e.g. the one whose features were computed last created."""
    having = {run for run in connection.snapshot.runs if connection.snapshot.files(table, run)}
    rows = connection.execute("SELECT run_id FROM runs ORDER BY created_at DESC, run_id DESC").fetchall()
    return next((run_id for (run_id,) in rows if run_id in having), None)


def _from_the_last(connection: "Connection", run_id: str, layer: int) -> int:
    """A negative layer as its number: -1 is the last one of the run's model."""
    rows = connection.execute("SELECT n_layers FROM runs WHERE run_id = $run", {"run": run_id}).fetchall()
    n_layers = rows[0][0] if rows else None
    return layer_number(run_id, {"model": {"n_layers": n_layers}}, layer)


def check_profile(connection: "Connection", text: str) -> None:
    """UsageError for thresholds that do not exist: without it a misspelt profile would answer with no rows."""
    names = [name for (name,) in connection.execute("SELECT profile FROM health_profiles").fetchall()]
    if text not in names:
        raise UsageError(f"There is no health profile {text!r}.{did_you_mean(text, names, show=len(names))}")


def saved_queries(
    lake: Lake | None = None, *, on_broken: Callable[[ConfigError], None] | None = None
) -> dict[str, SavedQuery]:
    """Every saved query by name: the package's own, and over them those of LAKE/queries.

    A file that cannot be used is raised, or given to `on_broken` and left out.
    """
    queries: dict[str, SavedQuery] = {}
    for file in sorted(_query_files(lake).values(), key=lambda file: file.name):
        try:
            queries[file.name] = _load(file)
        except ConfigError as error:
            if on_broken is None:
                raise
            on_broken(error)
    return queries


def find(name: str, lake: Lake | None = None) -> SavedQuery:
    """The saved query called `name`; other files are not read, so a broken one elsewhere does not matter."""
    files = _query_files(lake)
    if name not in files:
        raise NotFoundError(f"No saved query {name!r}.{did_you_mean(name, sorted(files))} `lake query` lists them all.")
    return _load(files[name])


@dataclass(frozen=True)
class _File:
    """A file that holds a saved query."""

    path: PurePath
    source: str
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        return self.path.stem


def _query_files(lake: Lake | None) -> dict[str, _File]:
    packaged = [file for file in resources.files(_PACKAGE).joinpath("saved").iterdir() if file.name.endswith(".sql")]
    files = [_File(PurePath(str(file)), "tracelake", file.read_bytes) for file in packaged]
    if lake is not None:
        folder = lake.path / FOLDER
        files += [_File(folder / name, "lake", partial(read_query_file, lake, name)) for name in query_files(lake)]
    return {file.name: file for file in files}


def _load(file: _File) -> SavedQuery:
    path = file.path
    if not _FILE_NAME.fullmatch(path.name):
        raise ConfigError(f"{path}: a saved query's file name must be lower-case letters, digits and _, then .sql.")
    try:
        text = file.read().decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    return _checked(text, path, file.source)


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    """A connection that only parses; to open one takes longer than to parse with it."""
    parser = duckdb.connect()
    atexit.register(parser.close)  # DuckDB warns about open ones
    return parser


@lru_cache(maxsize=256)
def _checked(text: str, path: PurePath, source: str) -> SavedQuery:
    """The query of a file of this text: a report asks a hundred times for the same ones."""
    header = parse_header(text, path)
    statement = one_select(_parser().cursor(), text, path)
    query = SavedQuery(path.stem, source, path, statement.query.strip().rstrip(";"), header, text)
    _check_parameters(query, statement.named_parameters)
    return query


def one_select(parser: duckdb.DuckDBPyConnection, text: str, file: PurePath) -> duckdb.Statement:
    """The only statement of a file, which must be a SELECT that only reads; ConfigError otherwise."""
    try:
        reading_statement(parser, text)
        return parsed(parser, text)[0]
    except UsageError as error:
        raise ConfigError(f"{file}: {error}") from error


def _check_parameters(query: SavedQuery, used: set[str]) -> None:
    declared = set(query.parameters)
    if used - declared:
        names = ", ".join(f"${name}" for name in sorted(used - declared))
        raise ConfigError(f"{query.file}: query {query.name!r} uses {names} without a `-- param` line.")
    if declared - used:
        names = ", ".join(sorted(declared - used))
        raise ConfigError(f"{query.file}: query {query.name!r} declares {names} but does not use it.")
