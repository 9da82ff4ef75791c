"""The option `--verify`, which every verb that reads rows has: how carefully files are compared with their records."""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ...lake.reading.care import MODES, VARIABLE, mode

Verify = Annotated[
    str | None,
    typer.Option(
        "--verify",
        envvar=VARIABLE,
        metavar="|".join(MODES),
        help="Compare the checksums of files with their records: at every command, when first met (default), never.",
    ),
]


def reading(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb with `--verify`, for this process and those that it starts."""

    @functools.wraps(verb)
    def with_verify(*arguments: Any, verify: str | None = None, **options: Any) -> Any:
        os.environ[VARIABLE] = mode(verify)
        return verb(*arguments, **options)

    signature = inspect.signature(verb)
    option = inspect.Parameter("verify", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Verify)
    with_verify.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    with_verify.__annotations__ = {**verb.__annotations__, "verify": Verify}
    return with_verify
