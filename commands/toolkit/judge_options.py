"""Options of the verbs that ask a judge over HTTP: where it is, and what it may cost."""

from typing import Annotated

import typer

BaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Any OpenAI-compatible address; OpenRouter if not given.")
]
KeyEnv = Annotated[str, typer.Option(metavar="NAME", help="Environment variable that holds the key.")]
KEY_ENV = "OPENROUTER_API_KEY"
MaxCalls = Annotated[int, typer.Option(help="Most requests, retries included.")]
MaxUsd = Annotated[float, typer.Option(help="Most USD; every call reserves its worst cost first.")]
NoMaxUsd = Annotated[bool, typer.Option("--no-max-usd", help="Trust --max-calls alone.")]
UsdPerMillion = Annotated[
    str | None, typer.Option(metavar="IN,OUT", help="Price of a million tokens read and written.")
]
Concurrency = Annotated[int, typer.Option(help="Requests at once.")]
Timeout = Annotated[float, typer.Option(help="Seconds that a request may take.")]


def price(text: str | None) -> tuple[float, float] | None:
    """USD per million tokens read and written, as typed."""
    from ...lake.errors import UsageError

    if text is None:
        return None
    try:
        read, written = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--usd-per-million {text!r} is not two numbers: IN,OUT, e.g. 0.15,0.60.") from None
    return read, written
