"""A run may be given as an argument or as `--run`, whichever of them a verb declares."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.models import ArgumentInfo

from ...lake.errors import UsageError
from .completion import runs

_ABOUT = "Run id, unique prefix, tag, or `latest`"


def either_run(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb, which also takes its parameter `run` in the other of the two forms."""
    signature = inspect.signature(verb)
    if "run_too" in signature.parameters:
        return verb
    declared = signature.parameters["run"]
    own = declared.annotation.__metadata__[0]
    is_argument = isinstance(own, ArgumentInfo)
    kinds = get_args(declared.annotation)[0]
    several = any(get_origin(part) is list for part in (kinds, *get_args(kinds)))
    default = None if declared.default is inspect.Parameter.empty else declared.default

    @functools.wraps(verb)
    def with_either(*, run: Any = None, run_too: Any = None, **options: Any) -> Any:
        given = [value for value in (run, run_too) if value]
        if len(given) == 2:
            raise UsageError(f"The run is given twice, as {_shown(given[0])} and as {_shown(given[1])}. Give it once.")
        if not given and declared.default is inspect.Parameter.empty:
            raise UsageError("Name a run: its id, a unique prefix, its tag, or latest. `lake runs` lists them.")
        return verb(run=given[0] if given else default, **options)

    kind: Any = list[str] if several else str
    other = (
        typer.Option("--run", help="The same as RUN.", autocompletion=runs)
        if is_argument
        else typer.Argument(metavar="RUN", help="The same as --run.", autocompletion=runs)
    )
    about = (own.help or _ABOUT).rstrip(".") + (f"; {_shown(default)} if not given." if default else ".")
    first = (
        typer.Argument(metavar="RUN", help=about, autocompletion=runs)
        if is_argument
        else typer.Option("--run", help=about, autocompletion=runs)
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("run", keyword, default=None, annotation=Annotated[kind | None, first])
        if name == "run"
        else parameter.replace(kind=keyword)
        for name, parameter in signature.parameters.items()
    ]
    parameters.append(inspect.Parameter("run_too", keyword, default=None, annotation=Annotated[kind | None, other]))
    with_either.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_either.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_either


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
