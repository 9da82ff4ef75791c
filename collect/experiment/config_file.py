"""Reads the configuration of an experiment: keys without effect get a notice, unknown ones an error."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ...lake.errors import ConfigError, NotFoundError, did_you_mean

Config = TypeVar("Config", bound=BaseModel)
Values = dict[str, Any]


def read_config(
    kind: type[Config],
    given: str | Path | Mapping[str, object],
    without_effect: Mapping[str, str],
    changes: Mapping[str, object] | None = None,
) -> tuple[Config, list[str]]:
    """The configuration in a YAML file (or given as a mapping), and what is to be said of its keys.

    Args: `without_effect`, dotted keys that other programs have, with the reason why nothing follows from them;
    `changes`, values by dotted key that win over the file's. Errors: NotFoundError, or ConfigError with the key.
    """
    values = _plain(given) if isinstance(given, Mapping) else _read(Path(given))
    notices = []
    for key, why in without_effect.items():
        if _take(values, key.split(".")) is not None:
            notices.append(f"{key} has no effect: {why}")
    for key, value in (changes or {}).items():
        _put(values, key.split("."), value)
    if unknown := next(_unknown(kind, values), None):
        key, possible = unknown
        raise ConfigError(f"There is no setting {key!r}.{did_you_mean(key.rpartition('.')[2], possible, show=40)}")
    try:
        return kind(**values), notices
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "configuration"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{key}: {message} (given: {first['input']!r}).") from error


def _read(path: Path) -> Values:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise NotFoundError(f"The configuration file {path} cannot be read: {reason}.") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold settings as `name: value` lines.")
    return _plain(values)


def _plain(values: Mapping[Any, Any]) -> Values:
    """A copy whose keys are text: what is taken out of it is nobody else's."""
    return {str(key): _plain(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _take(values: Values, path: list[str]) -> Any:
    """The value under a key, taken out; None if it is not there or says nothing."""
    *above, last = path
    for name in above:
        values = values.get(name) or {}
        if not isinstance(values, dict):
            return None
    value = values.pop(last, None)
    return None if value in (None, False, [], {}) else value


def _put(values: Values, path: list[str], value: object) -> None:
    *above, last = path
    for name in above:
        values = values.setdefault(name, {})
    values[last] = value


def _unknown(kind: type[BaseModel], values: Values, above: str = "") -> Iterator[tuple[str, list[str]]]:
    """Keys that no field has, with those that there are."""
    for key, value in values.items():
        field = kind.model_fields.get(key)
        if field is None:
            yield f"{above}{key}", list(kind.model_fields)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            if not isinstance(value, dict):
                raise ConfigError(f"{above}{key} is a section of settings, not {value!r}.")
            yield from _unknown(field.annotation, value, f"{above}{key}.")
