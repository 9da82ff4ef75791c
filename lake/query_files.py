"""The user's own saved queries: `.sql` files in the folder `queries` of a lake, read like everything else in it."""

import os

from .errors import ConfigError, DamageError
from .lake import Lake

FOLDER = "queries"


def query_files(lake: Lake) -> list[str]:
    """Names of the files, sorted; none without a lake or a folder."""
    return [name for name in lake.store.names(FOLDER) if name.endswith(".sql")]


def read_query_file(lake: Lake, name: str) -> bytes:
    """The bytes of one file; ConfigError if it cannot be read."""
    where = f"{lake.path}/{FOLDER}/{name}"
    try:
        return lake.store.read(f"{FOLDER}/{name}")
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({os.strerror(error.errno or 0)}).") from error
    except DamageError as error:
        raise ConfigError(f"{where}: {error}") from error
