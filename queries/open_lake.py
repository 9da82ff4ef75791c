"""A lake with everything that presents rows attached: derived views, saved queries, charts."""

from typing import TYPE_CHECKING, Any

from ..lake.errors import NotFoundError
from ..lake.lake import Lake
from .saved_query import SavedQuery, find
from .views import view_definitions

if TYPE_CHECKING:
    import altair
    import polars
    import pyarrow as pa


def _statement(query: SavedQuery) -> str:
    """What a saved query reads: its SQL, and the profiles if one of its parameters names a profile."""
    profiles = any(parameter.type == "PROFILE" for parameter in query.parameters.values())
    return f"{query.sql} health_profiles" if profiles else query.sql


class OpenLake(Lake):
    """A `Lake` whose connections have the derived views bound; what `tracelake.open` returns."""

    def connect(self, **options: Any) -> Any:
        """A DuckDB connection with every table and derived view; use it in a `with` block."""
        return super().connect(**{"extra_views": view_definitions(), **options})

    def arrow(self, statement: str) -> "pa.Table":
        """The rows of one SELECT as an Arrow table; spares a short query polars and the views that it does not name."""
        try:
            with self.connect(locked=True, extra_views=view_definitions(statement)) as connection:
                return connection.arrow(statement)
        except NotFoundError:
            # Something is misspelt: with every view bound the message can name the nearest one.
            with self.connect(locked=True) as connection:
                return connection.arrow(statement)

    def query(self, name: str, **params: Any) -> "polars.DataFrame":
        """The rows of a saved query; `params` are its parameters, e.g. `run="latest"`."""
        query = find(name, self.path)
        with self.connect(locked=True, extra_views=view_definitions(_statement(query))) as connection:
            return query.run(connection, self.resolve_run, **params)

    def chart(self, name: str, *, theme: str = "light", **params: Any) -> "altair.Chart":
        """The chart of a saved query; shows itself in a notebook."""
        from .chart import draw

        query = find(name, self.path)
        with self.connect(locked=True, extra_views=view_definitions(_statement(query))) as connection:
            drawing = draw(query, connection, self.resolve_run, theme=theme, params=params)
        return drawing.chart  # type: ignore[return-value]
