"""`oracle_solutions`: a service writes a solution to each problem of a run, graded, within limits, none asked twice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from ....lake import Lake
from ....lake.analyses import commit_analysis
from ....lake.derived import Analysis, analysis_row, input_digest
from ....lake.errors import ConfigError, StoppedError
from ....lake.values import Row
from ...inputs.grading import parse_grader
from ..service.asking import in_groups, replies
from ..service.client import Judge, Reply, Service
from ..service.limits import Allowance, Limits
from .oracle_template import content, oracle_digest, oracle_request

AT_ONCE = 8
"""Solutions of one commit: what an interruption can cost."""


@dataclass(frozen=True)
class Problem:
    """One problem of the run."""

    prompt_id: str
    question: str
    answer: str | None


@dataclass
class Written:
    """What a call did."""

    run_id: str
    analysis_id: str
    n_problems: int = 0
    n_stored: int = 0
    n_reused: int = 0
    """Solutions of equal problems in the lake, reused."""
    n_asked: int = 0
    n_right: int = 0
    n_calls: int = 0
    spent_usd: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    """Why there is no solution, of those of this call."""


def write_oracles(
    lake: Lake,
    run: str,
    service: Service,
    allowance: Allowance,
    *,
    grader: str = "auto",
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> Written:
    """Write what is not there; StoppedError (resumable) after the last commit if a limit was reached."""
    allowance.check()
    limits = allowance.limits()
    run_id = lake.resolve_run(run)
    problems = read_problems(lake, run_id)
    about = {"writer": service.model, "base_url": service.base_url, "template": oracle_digest(), "grader": grader}
    analysis = Analysis(run_id, "oracle-solutions", about, input_digest(lake.snapshot(run_id), [("sequences", {})]))
    result = Written(run_id, analysis.analysis_id, len(problems))
    rows = lake.scan("oracle_solutions").filter(pl.col("writer") == service.model).collect()
    stored = {row["content"]: row for row in rows.iter_rows(named=True)}
    mine = {row["prompt_id"] for row in stored.values() if row["analysis_id"] == analysis.analysis_id}
    known = [one for one in problems if content(service.model, one.question) in stored and one.prompt_id not in mine]
    fresh = [one for one in problems if content(service.model, one.question) not in stored]
    result.n_stored = len(mine)
    result.n_reused = len(known)
    if known:
        before = [stored[content(service.model, one.question)] for one in known]
        _commit(
            lake,
            analysis,
            [row | {"prompt_id": p.prompt_id, "cached": True} for p, row in zip(known, before, strict=True)],
        )
    if not fresh and not known:
        return result
    for some in in_groups(_asked(fresh, service, allowance, limits), AT_ONCE):
        made = [_row(service.model, problem, reply, grader) for problem, reply in some if reply.final]
        if made:
            _commit(lake, analysis, made)
        result.n_asked += len(some)
        result.n_right += sum(row["correct"] is True for row in made)
        for _, reply in some:
            if reply.verdict.reason:
                result.reasons[reply.verdict.reason] = result.reasons.get(reply.verdict.reason, 0) + 1
        on_progress(result.n_asked, len(fresh))
    result.n_calls, result.spent_usd = limits.calls, limits.spent_usd
    if limits.reached:
        raise StoppedError(
            f"Writing solutions for run {run_id} stopped at {limits.reached}: {len(fresh):,} were open, "
            f"{result.n_calls:,} calls, {result.spent_usd:.4f} USD. What was written is stored; the same command goes "
            "on with a higher limit."
        )
    notices = [f"{count:,} without a solution: {reason}." for reason, count in sorted(result.reasons.items())]
    commit_analysis(lake, analysis, {"analyses": analysis_row(analysis, len(problems), notices, None)}, partial=True)
    return result


def read_problems(lake: Lake, run_id: str) -> list[Problem]:
    """The problems of a run, each once."""
    rows = (
        lake.scan("sequences", run_id)
        .select("prompt_id", "prompt", "answer")
        .unique("prompt_id", keep="first", maintain_order=True)
        .sort("prompt_id")
        .collect()
    )
    if not rows.height:
        raise ConfigError(f"Run {run_id} has no prompts that a solution could be written to.")
    return [Problem(*row) for row in rows.iter_rows()]


def _asked(
    fresh: Sequence[Problem], service: Service, allowance: Allowance, limits: Limits
) -> Iterator[tuple[Problem, Reply]]:
    """Each problem with what came of asking."""
    if not fresh:
        return
    writer = Judge(service, limits, allowance.price)
    try:
        writer.learn_price()
        yield from replies(writer, ((one, oracle_request(one.question)) for one in fresh), allowance.concurrency)
    finally:
        writer.close()


def _row(writer: str, problem: Problem, reply: Reply, grader: str) -> Row:
    text, reason = reply.verdict.reply, reply.verdict.reason
    grade = None
    if reason is None and text is not None and problem.answer is not None:
        grade = parse_grader("exact" if grader == "auto" else grader).grade(text, problem.answer, None)
    return {
        "prompt_id": problem.prompt_id, "writer": writer, "solution": None if reason else text,
        "correct": None if grade is None else grade.correct, "template": oracle_digest(),
        "content": content(writer, problem.question), "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens, "cost_usd": reply.cost_usd, "latency_ms": reply.latency_ms,
        "attempts": reply.attempts, "cached": False,
        "reason": reason or (None if grade is None or grade.correct else f"wrong: {grade.predicted_answer}"),
    }  # fmt: skip


def _commit(lake: Lake, analysis: Analysis, rows: Sequence[Row]) -> None:
    names = [name for name in rows[0] if name not in ("run_id", "analysis_id")]
    columns = {name: [row[name] for row in rows] for name in names} | {"analysis_id": analysis.analysis_id}
    commit_analysis(lake, analysis, {"oracle_solutions": columns}, replace=False)
