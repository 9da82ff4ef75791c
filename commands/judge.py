"""`lake analyze judge` for a terminal."""

from typing import Annotated, Literal

import typer

from .terminal import HERE, AnyRun, AsJson, LakePath, open_lake, print_json, say


def judge(
    run: AnyRun = "latest",
    judge: Annotated[
        Literal["service", "local", "known"], typer.Option(help="--judge-model, sentence embeddings, or known methods.")
    ] = "service",
    judge_model: Annotated[str | None, typer.Option(help="Model that is asked, as the service names it.")] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Any OpenAI-compatible address; OpenRouter if not given.")
    ] = None,
    key_env: Annotated[str, typer.Option(metavar="NAME", help="Environment variable that holds the key.")] = (
        "OPENROUTER_API_KEY"
    ),
    pairs: Annotated[Literal["representatives", "all"], typer.Option(help="Which correct solutions to compare.")] = (
        "representatives"
    ),
    orders: Annotated[int, typer.Option(help="2 shows each pair both ways round.")] = 2,
    max_calls: Annotated[int, typer.Option(help="Most requests, retries included.")] = 200,
    max_usd: Annotated[float, typer.Option(help="Most USD; every call reserves its worst cost first.")] = 1.0,
    no_max_usd: Annotated[bool, typer.Option("--no-max-usd", help="Trust --max-calls alone.")] = False,
    usd_per_million: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="Price of a million tokens read and written.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at once.")] = 4,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 60.0,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Ask a judge whether correct solutions are distinct; a failure is no verdict. What was said is not asked again."""
    result = open_lake(lake).judge(
        run, judge=judge, judge_model=judge_model, base_url=base_url, key_env=key_env, pairs=pairs, orders=orders,
        max_calls=max_calls, max_usd=None if no_max_usd else max_usd, usd_per_million=_price(usd_per_million),
        concurrency=concurrency, timeout_s=timeout, on_progress=_progress,
    )  # fmt: skip
    say(
        f"{result.n_pairs:,} pairs: {result.n_asked:,} asked, {result.n_reused:,} reused, {result.n_stored:,} were "
        f"there; {result.n_distinct:,} distinct, {result.n_same:,} not, {result.n_null:,} without a verdict; "
        f"{result.n_calls:,} calls, {result.spent_usd:.4f} USD"
    )
    for reason, count in sorted(result.reasons.items()):
        say(f"  {count:,} without a verdict: {reason}")
    if as_json:
        return print_json(result.as_dict())
    return print(result.analysis_id)


def _price(text: str | None) -> tuple[float, float] | None:
    from ..lake.errors import UsageError

    if text is None:
        return None
    try:
        read, written = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--usd-per-million {text!r} is not two numbers: IN,OUT, e.g. 0.15,0.60.") from None
    if not (0 <= read < float("inf") and 0 <= written < float("inf")):
        raise UsageError(f"--usd-per-million {text!r}: a price is a number from 0 on.")
    return read, written


def _progress(done: int, n: int) -> None:
    say(f"  {done:,} of {n:,} judged")
