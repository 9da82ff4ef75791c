"""`lake sae label`: a judge names features and is tested on the names, for a terminal."""

from typing import Annotated

import typer

from ..terminal import HERE, AsJson, LakePath, open_lake, print_json, say
from ..toolkit.either_run import either_run
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
from .lists import layer_numbers
from .measures import OnRun, SaeName


@either_run
def label(
    sae: SaeName,
    judge_model: Annotated[str, typer.Option(help="Model that is asked, as the service names it.")],
    run: OnRun = "latest",
    features: Annotated[str | None, typer.Option(help="Features, e.g. 3,12 or 0-9; drawn if not given.")] = None,
    n: Annotated[int, typer.Option("--n", help="Active features that are drawn.")] = 20,
    base_url: BaseUrl = None,
    key_env: KeyEnv = KEY_ENV,
    max_calls: MaxCalls = 200,
    max_usd: MaxUsd = 1.0,
    no_max_usd: NoMaxUsd = False,
    usd_per_million: UsdPerMillion = None,
    concurrency: Concurrency = 4,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Let a judge name features from their examples, and test the names on held-out ones. Needs `lake sae features`."""
    result = open_lake(lake).label_features(
        sae, run, judge_model=judge_model, features=layer_numbers(features, "--features"), n=n, base_url=base_url,
        key_env=key_env, max_calls=max_calls, max_usd=None if no_max_usd else max_usd,
        usd_per_million=price(usd_per_million), concurrency=concurrency, timeout_s=timeout,
        on_progress=lambda done, n: say(f"  {done:,} of {n:,} features"),
    )  # fmt: skip
    say(
        f"{result.n_labels:,} of {result.n_features:,} features have a label; balanced accuracy: detection "
        f"{_score(result.detection)}, fuzzing {_score(result.fuzzing)} (0.5 is chance)"
    )
    say(
        f"{result.n_asked:,} asked, {result.n_reused:,} reused, {result.n_stored:,} were there; {result.n_calls:,} "
        f"calls, {result.spent_usd:.4f} USD"
    )
    for reason, count in sorted(result.reasons.items()):
        say(f"  {count:,} x {reason}")
    if as_json:
        return print_json(result.as_dict())
    return print(result.analysis_id)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
