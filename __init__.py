"""tracelake: record what a language model does, token by token, into a Parquet lake, and ask it questions in SQL.

lake = tracelake.open("lakehouse")
lake.sql("select token, surprisal_bits from token_steps limit 5")
lake.chart("surprisal_trace", run="latest")
lake.analyze("trajectory", site="resid_post", layer=3)
tracelake.collect("lakehouse", model="gpt2", prompt="The sky is")
"""

from os import PathLike
from typing import TYPE_CHECKING, Any

from .lake.errors import (
    ConfigError,
    DamageError,
    DiskFullError,
    FailedError,
    LakeError,
    LockedError,
    NewerFormatError,
    NotFoundError,
    StoppedError,
    UsageError,
)

if TYPE_CHECKING:
    from .collect import CallablePackage
    from .facade.open_lake import OpenLake as OpenLake
    from .lake.lake import Lake as Lake

    collect: CallablePackage
else:
    from . import collect

__version__ = "0.1.0"
__all__ = [
    "ConfigError",
    "DamageError",
    "DiskFullError",
    "FailedError",
    "Lake",
    "LakeError",
    "LockedError",
    "NewerFormatError",
    "NotFoundError",
    "OpenLake",
    "StoppedError",
    "UsageError",
    "collect",
    "open",
]


def open(path: "str | PathLike[str]" = "lakehouse") -> "OpenLake":
    """Open a lake for reading; NotFoundError if there is none at `path`."""
    from .facade.open_lake import OpenLake

    return OpenLake.open(str(path))


def __getattr__(name: str) -> Any:
    """`Lake` and `OpenLake` on first use: the command line must not pay for DuckDB to print its help."""
    if name == "OpenLake":
        from .facade.open_lake import OpenLake

        return OpenLake
    if name == "Lake":
        from .lake.lake import Lake

        return Lake
    raise AttributeError(f"module 'tracelake' has no attribute {name!r}")
