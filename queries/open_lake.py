"""A lake with everything that presents rows attached: derived views, saved queries, charts."""

from typing import TYPE_CHECKING, Any

from ..lake.lake import Lake
from .saved_query import find
from .views import view_definitions

if TYPE_CHECKING:
    import altair
    import polars


class OpenLake(Lake):
    """A `Lake` whose connections have the derived views bound; what `tracelake.open` returns."""

    def connect(self, **options: Any) -> Any:
        """A DuckDB connection with every table and derived view; use it in a `with` block."""
        return super().connect(**{"extra_views": view_definitions(), **options})

    def query(self, name: str, **params: Any) -> "polars.DataFrame":
        """The rows of a saved query; `params` are its parameters, e.g. `run="latest"`."""
        with self.connect(locked=True) as connection:
            return find(name, self.path).run(connection, self.resolve_run, **params)

    def chart(self, name: str, *, theme: str = "light", **params: Any) -> "altair.Chart":
        """The chart of a saved query; shows itself in a notebook."""
        from .chart import draw

        with self.connect(locked=True) as connection:
            drawing = draw(find(name, self.path), connection, self.resolve_run, theme=theme, params=params)
        return drawing.chart  # type: ignore[return-value]
