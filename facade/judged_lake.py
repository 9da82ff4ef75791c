"""Asking a judge about a run's solutions, as a method with the options of `lake analyze judge`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from ..queries.queried_lake import QueriedLake

if TYPE_CHECKING:
    from ..collect.judge.judge_run import Judged
    from ..collect.judge.oracles.oracle_run import Written


def _quietly(*_: object) -> None:
    """What nobody listens to."""


class JudgedLake(QueriedLake):
    """What `tracelake.open` returns, as far as judges go."""

    def judge(
        self,
        run: str = "latest",
        *,
        judge: Literal["service", "local", "known"] = "service",
        judge_model: str | None = None,
        base_url: str | None = None,
        key_env: str = "OPENROUTER_API_KEY",
        pairs: Literal["representatives", "all"] = "representatives",
        orders: int = 2,
        max_calls: int = 200,
        max_usd: float | None = 1.0,
        usd_per_million: tuple[float, float] | None = None,
        concurrency: int = 4,
        timeout_s: float = 60.0,
        on_progress: Callable[[int, int], None] = _quietly,
    ) -> "Judged":
        """Ask whether correct solutions are distinct (table `judgements`); what was said is not asked again.

        `max_usd` None trusts `max_calls` alone; `usd_per_million` is the price of tokens read and written.
        """
        from ..collect.judge.judge_run import JudgeOptions, judge_run
        from ..collect.judge.service.client import Service
        from ..collect.judge.service.limits import Allowance

        service = None if judge_model is None else Service.at(judge_model, base_url, key_env, timeout_s)
        allowance = Allowance.of(max_calls, max_usd, usd_per_million, concurrency)
        options = JudgeOptions(judge, service, pairs, orders, allowance)
        return judge_run(self, run, options, on_progress=on_progress)

    def write_oracles(
        self,
        run: str = "latest",
        *,
        model: str,
        base_url: str | None = None,
        key_env: str = "OPENROUTER_API_KEY",
        max_calls: int = 200,
        max_usd: float | None = 1.0,
        usd_per_million: tuple[float, float] | None = None,
        concurrency: int = 4,
        timeout_s: float = 120.0,
        on_progress: Callable[[int, int], None] = _quietly,
    ) -> "Written":
        """Let a service write a solution to each problem of a run (table `oracle_solutions`), none twice."""
        from ..collect.judge.oracles.oracle_run import write_oracles
        from ..collect.judge.service.client import Service
        from ..collect.judge.service.limits import Allowance

        service = Service.at(model, base_url, key_env, timeout_s)
        allowance = Allowance.of(max_calls, max_usd, usd_per_million, concurrency)
        return write_oracles(self, run, service, allowance, on_progress=on_progress)
