"""One run of a lake, and the list of them: what `lake["latest"]` and `lake.runs` return."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..lake.output.printable import printable
from ..lake.tables.run_row import RunRow
from ..lake.values import Json
from .header import Value

if TYPE_CHECKING:
    import altair
    import polars

    from .queried_lake import QueriedLake
    from .report import WrittenReport

_SHOWN = ("run_id", "tag", "kind", "status", "model", "n_sequences", "n_tokens", "created_at")


class Runs(Sequence[RunRow]):
    """The runs of a lake, oldest first: a polars frame (`.frame`, and every method of one), and a list of dicts.

    Calling it reads the lake again and returns the dicts.
    """

    def __init__(self, lake: "QueriedLake") -> None:
        self._lake = lake
        self._rows = lake.run_rows()

    @property
    def frame(self) -> "polars.DataFrame":
        """All columns of the table `runs`."""
        import polars as pl

        from ..lake.runs import runs_table

        frame = pl.from_arrow(runs_table(self._rows))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def __call__(self) -> list[RunRow]:
        return self._lake.run_rows()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.frame, name)

    def __getitem__(self, item: Any) -> Any:
        return self._rows[item] if isinstance(item, int | slice) else self.frame[item]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[RunRow]:
        return iter(self._rows)

    def __repr__(self) -> str:
        if not self._rows:
            return "no runs yet: tracelake.collect(...) makes one"
        cells = [[_cell(row[name]) for name in _SHOWN] for row in self._rows]
        widths = [max(map(len, column)) for column in zip(_SHOWN, *cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (_SHOWN, *cells)
        ]
        return "\n".join([*(line.rstrip() for line in lines), 'lake["RUN"] opens one; .frame has all columns'])

    def _repr_html_(self) -> str:
        return self.frame.select(_SHOWN)._repr_html_()


class OpenRun:
    """One run of a lake, by id, unique prefix, tag or `latest`."""

    def __init__(self, lake: "QueriedLake", run: str) -> None:
        self.lake = lake
        self.run_id = lake.resolve_run(run)

    @property
    def info(self) -> RunRow:
        """The run's row of the table `runs`."""
        return next(row for row in self.lake.run_rows() if row["run_id"] == self.run_id)

    @property
    def config(self) -> Json:
        """The resolved settings it was collected with."""
        return self.lake.run_json(self.run_id).get("config") or {}

    @property
    def tokens(self) -> "polars.DataFrame":
        """Its rows of `token_steps`, in order; `table("token_steps")` reads only what is used."""
        return self.table("token_steps").sort("sequence_id", "position").collect()

    @property
    def sequences(self) -> "polars.DataFrame":
        """Its rows of `sequences`, in order."""
        return self.table("sequences").sort("sequence_id").collect()

    def table(self, name: str) -> "polars.LazyFrame":
        """Its rows of any table, as a polars LazyFrame."""
        return self.lake.scan(name, run=self.run_id)

    def sql(self, statement: str) -> "polars.DataFrame":
        """The result of one SELECT over this run's rows alone; `$run` is its id."""
        return self.lake.sql(statement, {"run": self.run_id} if "$run" in statement else None, run=self.run_id)

    def query(self, name: str, **params: Value) -> "polars.DataFrame":
        """The rows of a saved query."""
        return self.lake.query(name, run=self.run_id, **params)

    def chart(self, name: str, **params: Any) -> "altair.Chart":
        """The chart of a saved query, as `QueriedLake.chart` draws it."""
        return self.lake.chart(name, run=self.run_id, **params)

    def vectors(self, layer: int, site: str = "resid_post", **options: Any) -> Any:
        """Vectors of one layer and site, as `Lake.vectors` returns them."""
        return self.lake.vectors(layer, site, self.run_id, **options)

    def report(self, output: str | Path | None = None, **options: Any) -> "WrittenReport":
        """Write the run as an HTML page, `report-RUN.html` if no file is named (see `lake report`)."""
        from .report import write_report

        return write_report(self.lake, self.run_id, output, **options)

    def __repr__(self) -> str:
        about = self.info
        model = printable(Path(str(about["model"] or "unknown model")).name)
        kept = ", ".join(str(item) for item in self.config.get("keep") or ()) or "unknown"
        sizes = f"{about['n_sequences']:,} sequences, {about['n_tokens']:,} tokens"
        return (
            f"run {self.run_id} ({about['status']}): {sizes} of {model}\n  kept: {printable(kept)}\n"
            "  .tokens .sequences .table(name) .query(name) .chart(name) .vectors(layer) .report() .info .config"
        )


def _cell(value: object) -> str:
    if value is None:
        return "\u00b7"
    if isinstance(value, datetime):
        from .results.cells import timestamp_text  # numpy: not for every look at a lake

        return timestamp_text(round(value.timestamp() * 1000), "ms", "UTC")[:19]
    return printable(str(value))
