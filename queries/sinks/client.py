"""The client libraries of the extra `sinks`, or an error that says how to get them."""

from importlib import import_module
from typing import Any

from ...lake.errors import ConfigError


def client(module: str) -> Any:
    """Import a module of a client library; ConfigError if it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise ConfigError(
            f"This needs the Python package {module.partition('.')[0].replace('_', '-')}, which is not installed: "
            "pip install 'tracelake[sinks]'. Without it `lake metrics RUN --json` prints the same numbers."
        ) from error
