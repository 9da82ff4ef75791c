"""Vectors of chosen tokens as one matrix, with labels row by row: SQL chooses the keys, the reader takes the rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from ..errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import polars as pl

KEY = ("run_id", "sequence_id", "position")
_TOKENS = """
    SELECT
        t.*,
        s.* EXCLUDE (run_id, sequence_id),
        t.step IS NOT NULL AS generated,
        t.position = s.n_prompt_tokens + s.n_generated_tokens - 1 AS last
    FROM token_steps AS t
    JOIN sequences AS s USING (run_id, sequence_id)
"""


class Asks(Protocol):
    """A connection that answers one SELECT."""

    def arrow(self, query: str) -> pa.Table:
        """The rows."""
        ...


@dataclass(frozen=True)
class Selected:
    """Row r of the matrix is the vector of the token in row r of `rows`: its key, then the columns asked for.

    Unpacks like a pair: `matrix, rows = lake.vectors(..., where="last")`.
    """

    matrix: np.ndarray
    rows: "pl.DataFrame"
    dtype: str

    def __iter__(self) -> "Iterator[np.ndarray | pl.DataFrame]":
        yield self.matrix
        yield self.rows

    def __len__(self) -> int:
        return len(self.matrix)

    def __repr__(self) -> str:
        names = ", ".join(self.rows.columns)
        return f"{len(self.matrix):,} vectors of {self.matrix.shape[1]} x {self.dtype} with {names}"


def selection_sql(where: str | None, join: Sequence[str]) -> str:
    """The SELECT of the keys, in order, with the columns to join.

    Both may name columns of `token_steps` and `sequences`, `generated` (not prompt) and `last` (of its sequence).
    """
    columns = ", ".join([*KEY, *join])
    # Each part on lines of its own: it may end in a comment.
    return f"SELECT {columns}\nFROM ({_TOKENS}) AS tokens\nWHERE (\n{where or 'true'}\n)\nORDER BY {', '.join(KEY)}"


def chosen_rows(connection: Asks, where: str | None, join: Sequence[str]) -> pa.Table:
    """The chosen tokens, sorted by key; see `selection_sql` for what may be named."""
    rows = connection.arrow(selection_sql(where, join))
    if rows.num_rows == 0:
        raise NotFoundError(f"No token meets the condition: {where}.")
    return rows


def select_vectors(rows: pa.Table, batches: Iterator[tuple[pa.Table, np.ndarray]]) -> Selected:
    """The vectors of the chosen tokens that have one, in the order of `rows`."""
    import polars as pl

    keys = _frame(rows.select(list(KEY))).with_row_index("row")
    matrix: np.ndarray | None = None
    kinds: set[str] = set()
    taken = np.zeros(rows.num_rows, bool)
    for stored, vectors in batches:
        here = _frame(stored.select(list(KEY))).with_row_index("from")
        pairs = here.join(keys, on=list(KEY), how="inner")
        if pairs.height == 0:
            continue
        if matrix is None:
            matrix = np.empty((rows.num_rows, vectors.shape[1]), vectors.dtype)
        kinds.add(stored["dtype"][0].as_py())
        _check_format(matrix, vectors, kinds)
        at = pairs["row"].to_numpy()
        matrix[at] = vectors[pairs["from"].to_numpy()]
        taken[at] = True
    if matrix is None:
        raise NotFoundError(
            f"None of the {rows.num_rows:,} chosen tokens has a vector of this layer and site: "
            "the run kept others (lake show RUN prints what)."
        )
    found = rows if taken.all() else rows.filter(pa.array(taken))
    frame = pl.from_arrow(found)
    assert isinstance(frame, pl.DataFrame)
    return Selected(matrix if taken.all() else matrix[taken], frame, matrix.dtype.name)


def _check_format(matrix: np.ndarray, vectors: np.ndarray, kinds: set[str]) -> None:
    if (
        vectors.shape[1] != matrix.shape[1]
        or vectors.dtype != matrix.dtype
        or (matrix.dtype.kind != "f" and len(kinds) > 1)
    ):
        raise UsageError(
            f"The chosen vectors are of several formats ({matrix.shape[1]} x {matrix.dtype}, {vectors.shape[1]} x "
            f"{vectors.dtype}): they do not make one matrix. Choose one run, or leave `raw` out."
        )


def _frame(rows: pa.Table) -> Any:
    import polars as pl

    frame = pl.from_arrow(rows)
    return frame.with_columns(  # type: ignore[union-attr]
        pl.col("run_id").cast(pl.String), pl.col("sequence_id").cast(pl.Int64), pl.col("position").cast(pl.Int64)
    )
