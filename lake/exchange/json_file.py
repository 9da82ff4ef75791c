"""A small JSON object beside published weights."""

import json
from pathlib import Path

from ..errors import ConfigError, NotFoundError
from ..values import Json


def read_json_object(path: Path) -> Json:
    """The object in the file; ConfigError if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no JSON object.")
    return value
