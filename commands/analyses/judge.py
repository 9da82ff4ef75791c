"""`lake analyze judge` for a terminal."""

from typing import Annotated, Literal

import typer

from ..terminal import HERE, AnyRun, AsJson, LakePath, open_lake, print_json, say
from ..toolkit.judge_options import (
    KEY_ENV,
    BaseUrl,
    Concurrency,
    KeyEnv,
    MaxCalls,
    MaxUsd,
    NoMaxUsd,
    Timeout,
    UsdPerMillion,
    price,
)


def judge(
    run: AnyRun = "latest",
    judge: Annotated[
        Literal["service", "local", "known"], typer.Option(help="--judge-model, sentence embeddings, or known methods.")
    ] = "service",
    judge_model: Annotated[str | None, typer.Option(help="Model that is asked, as the service names it.")] = None,
    base_url: BaseUrl = None,
    key_env: KeyEnv = KEY_ENV,
    pairs: Annotated[Literal["representatives", "all"], typer.Option(help="Which correct solutions to compare.")] = (
        "representatives"
    ),
    orders: Annotated[int, typer.Option(help="2 shows each pair both ways round.")] = 2,
    max_calls: MaxCalls = 200,
    max_usd: MaxUsd = 1.0,
    no_max_usd: NoMaxUsd = False,
    usd_per_million: UsdPerMillion = None,
    concurrency: Concurrency = 4,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Ask a judge whether correct solutions are distinct; a failure is no verdict. What was said is not asked again."""
    result = open_lake(lake).judge(
        run, judge=judge, judge_model=judge_model, base_url=base_url, key_env=key_env, pairs=pairs, orders=orders,
        max_calls=max_calls, max_usd=None if no_max_usd else max_usd, usd_per_million=price(usd_per_million),
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


def _progress(done: int, n: int) -> None:
    say(f"  {done:,} of {n:,} judged")
