"""Options of a question: the fields of its dataclass that a user may set, for the command line and for Python."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ..lake.errors import UsageError, did_you_mean
from ..lake.values import JsonView

Value = TypeVar("Value")
_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def option(default: Value, about: str, *, flag: str | None = None, metavar: str | None = None) -> Value:
    """A field that is an option: what it means, and how it is typed if not `--` and its name with dashes."""
    return field(default=default, metadata={"about": about, "flag": flag, "metavar": metavar})  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Option:
    """One option of a question."""

    name: str
    """The field's name, which is the name in Python."""
    flag: str
    """The name on the command line."""
    about: str
    kind: type[str] | type[int] | type[float] | type[bool]
    """Of one value."""
    choices: tuple[str, ...]
    repeats: bool
    """Whether it takes several values."""
    optional: bool
    """Whether it may be None: left to what the run holds."""
    default: Any
    metavar: str | None

    def checked(self, value: object) -> object:
        """The value as the field holds it; UsageError if it cannot be one."""
        if value is None and self.optional:
            return None
        if not self.repeats:
            return self._one(value)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UsageError(f"{self.flag} takes several values: give a list, not {value!r}.")
        return tuple(self._one(one) for one in value) or None

    def _one(self, value: object) -> object:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if self.kind is float and whole:
            return float(value)  # pyright: ignore[reportArgumentType]
        fits = whole if self.kind is int else isinstance(value, self.kind)
        if not fits:
            raise UsageError(f"{self.flag} takes {_KINDS[self.kind]}, not {value!r}.")
        if self.choices and value not in self.choices:
            raise UsageError(f"There is no {self.flag} {value!r}.{did_you_mean(str(value), self.choices)}")
        return value


@cache
def options_of(question: type[Any]) -> tuple[Option, ...]:
    """The options of a kind of question, in the order of its fields."""
    types = get_type_hints(question)
    return tuple(
        _read(one.name, types[one.name], one.default, one.metadata) for one in fields(question) if one.metadata
    )


def _read(name: str, annotation: Any, default: object, metadata: JsonView) -> Option:
    optional = NoneType in get_args(annotation)
    kind = next(part for part in get_args(annotation) if part is not NoneType) if optional else annotation
    repeats = get_origin(kind) is tuple
    kind = get_args(kind)[0] if repeats else kind
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    flag = metadata["flag"] or "--" + name.replace("_", "-")
    return Option(
        name, flag, metadata["about"], str if choices else kind, choices, repeats, optional, default,
        metadata["metavar"],
    )  # fmt: skip
