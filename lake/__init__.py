"""The store: a partitioned Parquet lake with atomic commits, read through DuckDB and polars. Never loads a model."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lake import Lake
    from .schema import TABLES

__all__ = ["TABLES", "Lake"]


def __getattr__(name: str) -> Any:
    """Import `Lake` and `TABLES` when first asked for: `lake --help` must not pay for pyarrow."""
    if name == "Lake":
        from .lake import Lake

        return Lake
    if name == "TABLES":
        from .schema import TABLES

        return TABLES
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
