"""A lake with everything that presents rows attached: derived views, saved queries, charts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..lake.lake import Lake, Views
from ..lake.tables.run_row import RunRow
from ..lake.values import Json, JsonView
from .derived_views import view_definitions
from .header import Value
from .open_run import OpenRun, Runs

if TYPE_CHECKING:
    import altair
    import polars
    import pyarrow as pa

    from ..lake.sql.duck import Connection
    from ..lake.sql.plain_rows import PlainRows
    from .charts.chart import Drawing, Shape
    from .saved_query import SavedQuery


class QueriedLake(Lake):
    """A `Lake` whose connections have the derived views bound; what `tracelake.open` returns."""

    @property
    def runs(self) -> Runs:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The runs, oldest first: a frame that also is a list of dicts, and can be called like `Lake.runs`."""
        return Runs(self)

    def run_rows(self) -> list[RunRow]:
        """One dict per run, oldest first."""
        return super().runs()

    def runs_table(self) -> "pa.Table":
        """The table `runs` in Arrow."""
        from ..lake.runs import runs_table

        return runs_table(self.run_rows())

    def __getitem__(self, run: str) -> OpenRun:
        """One run: by id, unique prefix, tag or `latest`."""
        return OpenRun(self, run)

    def __repr__(self) -> str:
        rows = self.run_rows()
        kept = [row for row in rows if row["status"] != "removed"]
        tokens = sum(row["n_tokens"] or 0 for row in kept)
        newest = f"\n  newest: {kept[-1]['run_id']} ({kept[-1]['status']})" if kept else ""
        return (
            f"lake {self.path}: {len(kept):,} runs, {tokens:,} tokens{newest}\n"
            '  .runs  ["latest"]  .sql("...")  .query(name)  .chart(name)  .scan(table)  .vectors(layer, site)'
        )

    def sql(
        self, query: str, parameters: "Sequence[Any] | Json | None" = None, *, run: str | None = None
    ) -> "polars.DataFrame":
        """The result of one SELECT as a polars DataFrame, through the locked connection; of one run's rows if given."""
        with self.connect(run=run, locked=True, at_once=False) as connection:
            return connection.sql(query, parameters)

    def connect(
        self, *, run: str | None = None, extra_views: Views | None = None, locked: bool = False, at_once: bool = True
    ) -> "Connection":
        """A DuckDB connection with every table and derived view (or those given); use it in a `with` block.

        `locked` allows single SELECTs over the lake's own files and nothing else. Unless `at_once`, commits are read
        when a statement first names a table.
        """
        wanted = view_definitions() if extra_views is None else extra_views
        return super().connect(run=run, extra_views=wanted, locked=locked, at_once=at_once)

    def arrow(self, statement: str, parameters: JsonView | None = None, *, run: str | None = None) -> "pa.Table":
        """The rows of one SELECT as an Arrow table, of one run's tables only if `run` is given; spares polars."""
        with self.connect(run=run, locked=True, at_once=False) as connection:
            return connection.arrow(statement, dict(parameters or {}) or None)

    def rows(
        self, statement: str, parameters: Mapping[str, Any] | None = None, *, run: str | None = None
    ) -> "PlainRows | pa.Table":
        """The rows of one SELECT for printing: plain values where they are few, an Arrow table otherwise."""
        with self.connect(run=run, locked=True, at_once=False) as connection:
            return connection.rows(statement, dict(parameters or {}) or None)

    def query(self, name: str, **params: Value) -> "polars.DataFrame":
        """The rows of a saved query; `params` are its parameters, e.g. `run="latest"`."""
        query = self._saved(name)
        with self.connect(locked=True) as connection:
            return query.run(connection, self.resolve_run, **params)

    def query_arrow(self, name: str, **params: Value) -> "pa.Table":
        """The rows of a saved query as an Arrow table."""
        query = self._saved(name)
        with self.connect(locked=True) as connection:
            return query.arrow(connection, query.bind(connection, params, self.resolve_run))

    def chart(
        self,
        name: str,
        *,
        theme: str = "light",
        width: int | None = None,
        height: int | None = None,
        title: str | None = None,
        **params: Value,
    ) -> "altair.Chart":
        """The chart of a saved query; shows itself in a notebook. NoRowsError, with the reason, if it has no rows."""
        from .charts.chart import Shape
        from .charts.notebook import show_offline

        show_offline()
        drawing = self.draw(name, theme=theme, shape=Shape(width, height, title), params=params)
        return drawing.chart  # type: ignore[return-value]

    def draw(self, name: str, *, theme: str, shape: "Shape | None" = None, params: Mapping[str, Value]) -> "Drawing":
        """The chart of a saved query with what its reader must know; NoRowsError says why there are none."""
        from .charts.chart import NoRowsError, draw

        query = self._saved(name)
        with self.connect(locked=True) as connection:
            try:
                return draw(query, connection, self.resolve_run, theme=theme, params=params, shape=shape)
            except NoRowsError as error:
                reason = self._why_no_rows(query, connection, params)
                raise NoRowsError(" ".join(filter(None, [str(error), reason]))) from None

    def why_no_rows(self, name: str, **params: Value) -> str | None:
        """What explains that a saved query has no rows; None if nothing does."""
        with self.connect(locked=True) as connection:
            return self._why_no_rows(self._saved(name), connection, params)

    def _saved(self, name: str) -> "SavedQuery":
        from .saved_query import find  # brings DuckDB, which a list of runs does without

        return find(name, self)

    def _why_no_rows(self, query: "SavedQuery", connection: "Connection", params: Mapping[str, Value]) -> str | None:
        from .charts.absence import why_empty

        values = query.bind(connection, params, self.resolve_run)
        about = self.run_json(str(values["run"])) if values.get("run") else {}
        return why_empty(query, connection, values, about.get("unmeasured") or {})
