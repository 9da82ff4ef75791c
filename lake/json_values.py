"""JSON that somebody else may have written: parsed, and checked to be of the types that were meant."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from .errors import DamageError
from .values import Json

DEEPEST = 64
_INT64 = 2**63
_SURROGATE = re.compile(rb"\\u[dD]")
_ANY_DIGIT, _LONG = bytes.maketrans(b"123456789", b"0" * 9), b"0" * 19


class Time(str):
    """A type for ISO times."""


def parse(data: bytes, what: str) -> Json:
    """The JSON object in `data`; DamageError if it is none, is nested too deep, or holds what no JSON text can."""
    try:
        value = _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{what} is no JSON: {error}. Run `lake verify`.") from error
    if not isinstance(value, dict):
        raise DamageError(f"{what} holds no JSON object. Run `lake verify`.")
    if _may_be_odd(data) and (problem := oddity(value)):
        raise DamageError(f"{what} {problem}. Run `lake verify`.")
    return value


def _may_be_odd(data: bytes) -> bool:
    """Whether a text can hold what `oddity` looks for: many brackets, a surrogate's escape, 19 digits in a row.

    Every record of every run passes here whenever a lake is opened, so the digits are found without an expression.
    """
    many = data.count(b"[") + data.count(b"{") > DEEPEST
    return many or _SURROGATE.search(data) is not None or _LONG in data.translate(_ANY_DIGIT)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_constant)  # made once: every record of every run passes through it


def oddity(value: object) -> str | None:
    """What no reader could pass on: nesting without end, half characters, numbers beyond 64 bits. None if fine."""
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if depth > DEEPEST:
            return f"is nested more than {DEEPEST} deep"
        if isinstance(one, dict):
            waiting += [(inner, depth + 1) for pair in one.items() for inner in pair]
        elif isinstance(one, list):
            waiting += [(inner, depth + 1) for inner in one]
        elif isinstance(one, str) and not one.isascii():
            try:
                one.encode()
            except UnicodeEncodeError:
                return "holds half a character (a lone surrogate)"
        elif type(one) is int and not -_INT64 <= one < _INT64:
            return "holds a number beyond 64 bits"
    return None


@cache
def checker(kind: object) -> Callable[[Any], bool]:
    """Whether a JSON value is of a type: None, bool, int, float, str, Time, Literal, list, dict, unions, Any."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: True
    if origin in (Union, UnionType):
        alternatives = [checker(one) for one in inner]
        return lambda value: any(fits(value) for fits in alternatives)
    if origin is Literal:
        return lambda value: type(value) is str and value in inner
    if origin is list and inner[0] in (int, str):
        leaf = {inner[0]}
        return lambda value: type(value) is list and leaf.issuperset(map(type, value))
    if origin in (list, dict):
        each = checker(inner[-1])
        if origin is list:
            return lambda value: type(value) is list and all(map(each, value))
        return lambda value: type(value) is dict and all(map(each, value.values()))
    if kind is Time:
        return lambda value: type(value) is str and _is_time(value)
    if kind is float:
        return lambda value: type(value) in (float, int)
    wanted = NoneType if kind is None else kind
    return lambda value: type(value) is wanted


def check_types(values: Mapping[str, object], kinds: Mapping[str, object], what: str) -> None:
    """DamageError for the first value that is there and of another type than declared."""
    for name, kind in kinds.items():
        if name in values and not checker(kind)(values[name]):
            shown = (
                str(values[name])[:40] if isinstance(values[name], str | int | float) else type(values[name]).__name__
            )
            raise DamageError(
                f"{what} cannot be read: {name} is {shown!r}, which is not of the type that belongs there "
                f"({_name(kind)}). Run `lake verify`."
            )


def _name(kind: object) -> str:
    return getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)


def _is_time(text: str) -> bool:
    try:
        # Later than 1970 and before 2200: what every reader can hold.
        return 1970 <= datetime.fromisoformat(text).year < 2200
    except ValueError:
        return False
