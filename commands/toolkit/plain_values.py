"""Texts, paths and flags as the values of parameters without pydantic, which takes longer to load than many an answer.

Typer turns every value by way of pydantic. What needs it is left to it: numbers that are typed, ranges, choices, lists
of anything but text, paths that must be something.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.core import TyperArgument, TyperOption
from typer.models import ParameterInfo


@dataclass(frozen=True)
class PlainValue:
    """Turns a value where that is plain; any other as typer does."""

    parameter: Any
    """A TyperOption or TyperArgument."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """What typer would make of the value, or its BadParameter."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        kind, info = self.parameter.type_descriptor.annotation, self.parameter.type_descriptor.parameter_info
        if not _is_checked(info):
            if kind is str and isinstance(value, str) and not several:
                return value
            if kind is Path and isinstance(value, str | Path) and _may_be_read(value):
                return Path(value)
            if kind == list[str] and isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
                return list(value)
            if kind in (int, float) and type(value) is kind:  # a default
                return value
        return type(self.parameter).get_runtime_param(self.parameter).coerce(value, param=param, ctx=ctx)


def _is_checked(info: ParameterInfo) -> bool:
    """Whether more is asked of a value than its type."""
    wishes = (info.parser, info.path_type, info.min, info.max)
    if any(wish is not None for wish in wishes) or not (info.file_okay and info.dir_okay):
        return True
    return info.exists or info.writable or info.resolve_path or info.allow_dash


def _may_be_read(path: str | Path) -> bool:
    return not os.path.exists(path) or os.access(path, os.R_OK)


def with_plain_values(parameters: Iterable[Any]) -> None:
    """Let parameters of a command turn plain values by themselves."""
    for parameter in parameters:
        if isinstance(parameter, TyperOption | TyperArgument):
            parameter.get_runtime_param = lambda of=parameter: PlainValue(of)  # type: ignore[method-assign]
