"""The types of columns as data. Arrow is loaded when one of its types is asked for: a question in SQL needs none."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Scalar = Literal["string", "int16", "int32", "int64", "float32", "float64", "bool_", "binary", "timestamp"]


@dataclass(frozen=True)
class Kind:
    """A type of columns: Arrow's name of its values, DuckDB's name of it, and whether a value is a list of them."""

    scalar: Scalar
    sql: str
    is_list: bool = False

    @property
    def is_float(self) -> bool:
        """Whether equal values need not be equal."""
        return self.scalar in ("float32", "float64")

    @cached_property
    def arrow(self) -> "pa.DataType":
        """The Arrow type."""
        import pyarrow as pa

        one = pa.timestamp("ms", tz="UTC") if self.scalar == "timestamp" else getattr(pa, self.scalar)()
        return pa.list_(one) if self.is_list else one
