"""`judgements`: pairs of correct solutions judged one by one, verdicts committed as they come, none asked for twice."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import polars as pl

from ...lake import Lake
from ...lake.analyses import commit_analysis
from ...lake.derived import Analysis, analysis_row, input_digest, stored_analyses
from ...lake.errors import StoppedError, UsageError, did_you_mean
from ...lake.values import Json, Row
from .pairs import Pairs, Solution, cases, solutions
from .service.asking import in_groups, replies
from .service.client import Judge, Reply, Request, Service
from .service.limits import Allowance
from .template import MOST_TOKENS, Case, messages, template_digest
from .verdict import Verdict, read_verdict
from .without_service import Tell, known, local

SERVICE, LOCAL, KNOWN = "service", "local", "known"
KINDS = (SERVICE, LOCAL, KNOWN)
AT_ONCE = 16
"""Verdicts of one commit: what an interruption can cost."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class JudgeOptions:
    """How pairs are judged, and what that may cost."""

    judge: str = SERVICE
    service: Service | None = None
    pairs: Pairs = "representatives"
    orders: int = 2
    allowance: Allowance = field(default_factory=Allowance)

    def check(self) -> None:
        """UsageError for what cannot be."""
        if self.judge not in KINDS:
            raise UsageError(f"There is no --judge {self.judge!r}.{did_you_mean(self.judge, KINDS)}")
        if (self.judge == SERVICE) != (self.service is not None):
            raise UsageError("Name the model that judges with --judge-model, or say --judge local or --judge known.")
        if self.orders not in (1, 2):
            raise UsageError(f"--orders must be 1 or 2, not {self.orders}: two solutions have two orders.")
        self.allowance.check()

    @property
    def name(self) -> str:
        """The judge's name in rows."""
        return self.judge if self.service is None else self.service.model

    @property
    def template(self) -> str | None:
        """Digest of the instructions, if any are given."""
        return None if self.service is None else template_digest()


@dataclass
class Judged:
    """What a call of `judge_run` did."""

    run_id: str
    analysis_id: str
    judge: str
    n_pairs: int = 0
    n_stored: int = 0
    """Verdicts that were there."""
    n_reused: int = 0
    """Verdicts on equal texts, reused."""
    n_asked: int = 0
    n_calls: int = 0
    """Requests, retries included."""
    n_distinct: int = 0
    n_same: int = 0
    n_null: int = 0
    """Of those of this call, without a verdict."""
    spent_usd: float = 0.0
    stopped_by: str | None = None
    reasons: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return asdict(self)


def judge_run(lake: Lake, run: str, options: JudgeOptions, *, on_progress: Progress = lambda done, n: None) -> Judged:
    """Judge what has no final verdict yet; StoppedError (resumable) after the last commit if a limit was reached."""
    options.check()
    run_id = lake.resolve_run(run)
    chosen = solutions(lake, run_id, options.pairs)
    wanted = list(cases(chosen, options.orders))
    analysis = _analysis(lake, run_id, options)
    result = Judged(run_id, analysis.analysis_id, options.name, n_pairs=len(wanted) // options.orders)
    stored = _stored(lake, options)
    mine = stored.get(analysis.analysis_id, {})
    result.n_stored = sum((case.sequence_a, case.sequence_b, case.order) in mine for case in wanted)
    open_cases = [c for c in wanted if (c.sequence_a, c.sequence_b, c.order) not in mine]
    by_content = {row["content"]: row for rows in stored.values() for row in rows.values()}
    with _Asking(options, chosen) as asking:
        for some in in_groups(asking.replies(open_cases, by_content), AT_ONCE):
            rows = [_row(options, case, reply, reused) for case, reply, reused in some]
            final = [row for row, (_, reply, _) in zip(rows, some, strict=True) if reply.final]
            if final:
                _commit(lake, analysis, final)
            _count(result, some)
            on_progress(result.n_asked + result.n_reused, len(open_cases))
        if asking.judge is not None:
            limits = asking.judge.limits
            result.n_calls, result.spent_usd, result.stopped_by = limits.calls, limits.spent_usd, limits.reached
    if result.stopped_by:
        raise StoppedError(
            f"Judging run {run_id} stopped at {result.stopped_by}: {result.n_asked:,} of {len(open_cases):,} pairs "
            f"were asked about, {result.n_calls:,} calls, {result.spent_usd:.4f} USD. What was said is stored; the "
            "same command goes on with a higher limit."
        )
    if _is_new(lake, analysis):
        notices = [f"{count:,} without a verdict: {reason}." for reason, count in sorted(result.reasons.items())]
        n_sequences = len({case.sequence_a for case in wanted} | {case.sequence_b for case in wanted})
        about = analysis_row(analysis, n_sequences, notices, None)
        commit_analysis(lake, analysis, {"analyses": about}, replace=False)
    return result


class _Asking:
    """The judge of the options, ready to reply about cases."""

    def __init__(self, options: JudgeOptions, chosen: Sequence[Solution]) -> None:
        self.options = options
        self.judge: Judge | None = None
        self._by_id = {one.sequence_id: one for one in chosen}
        self._tell: Tell | None = known if options.judge == KNOWN else None
        if options.judge == LOCAL:
            from ..embedding.embedder import Embedder

            self._tell = local(chosen, Embedder(None, "cpu"))

    def __enter__(self) -> "_Asking":
        return self

    def __exit__(self, *_: object) -> None:
        if self.judge is not None:
            self.judge.close()

    def replies(self, wanted: Sequence[Case], by_content: Mapping[str, Json]) -> Iterator[tuple[Case, Reply, bool]]:
        """Each case with its reply, as they come, and whether an earlier one was reused."""
        fresh = []
        for case in wanted:
            before = by_content.get(case.content(self.options.name, self.options.template))
            if before is None:
                fresh.append(case)
            else:
                yield case, Reply(Verdict(before["distinct"], before["reply"], before["reason"]), final=True), True
        if self._tell is not None:
            for case in fresh:
                verdict = self._tell(self._by_id[case.sequence_a], self._by_id[case.sequence_b])
                yield case, Reply(verdict, final=True), False
        elif fresh:
            yield from ((case, reply, False) for case, reply in self._asked(fresh))

    def _asked(self, fresh: Sequence[Case]) -> Iterator[tuple[Case, Reply]]:
        """Ask the service about some cases at once."""
        options = self.options
        assert options.service is not None
        self.judge = Judge(options.service, options.allowance.limits(), options.allowance.price)
        self.judge.learn_price()
        wanted = ((case, Request(messages(case), MOST_TOKENS, read_verdict)) for case in fresh)
        yield from replies(self.judge, wanted, options.allowance.concurrency)


def _analysis(lake: Lake, run_id: str, options: JudgeOptions) -> Analysis:
    parameters = {
        "judge": options.name, "base_url": options.service.base_url if options.service else None,
        "template": options.template, "orders": options.orders, "pairs": options.pairs,
    }  # fmt: skip
    return Analysis(run_id, "judge", parameters, input_digest(lake.snapshot(run_id), [("sequences", {})]))


def _stored(lake: Lake, options: JudgeOptions) -> dict[str, dict[tuple[int, int, int], Json]]:
    """Final replies of this judge with these instructions in the whole lake, by analysis and pair."""
    same = pl.col("template").is_null() if options.template is None else pl.col("template") == options.template
    rows = lake.scan("judgements").filter((pl.col("judge") == options.name) & same).collect()
    found: dict[str, dict[tuple[int, int, int], Json]] = {}
    for row in rows.iter_rows(named=True):
        pair = (row["sequence_a"], row["sequence_b"], row["order"])
        found.setdefault(row["analysis_id"], {})[pair] = row
    return found


def _is_new(lake: Lake, analysis: Analysis) -> bool:
    [log] = lake.snapshot(analysis.run_id).runs.values()
    stored = stored_analyses(log).get(analysis.analysis_id)
    return stored is None or "analyses" not in stored.n_rows


def _row(options: JudgeOptions, case: Case, reply: Reply, reused: bool) -> Row:
    return {
        "prompt_id": case.prompt_id, "sequence_a": case.sequence_a, "sequence_b": case.sequence_b,
        "judge": options.name, "template": options.template, "order": case.order, "distinct": reply.verdict.distinct,
        "reply": reply.verdict.reply, "content": case.content(options.name, options.template),
        "prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens,
        "cost_usd": reply.cost_usd, "latency_ms": None if reused else reply.latency_ms, "attempts": reply.attempts,
        "cached": reused, "reason": reply.verdict.reason,
    }  # fmt: skip


def _commit(lake: Lake, analysis: Analysis, rows: Sequence[Row]) -> None:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    table = columns | {"analysis_id": analysis.analysis_id}
    commit_analysis(lake, analysis, {"judgements": table}, replace=False)


def _count(result: Judged, some: Sequence[tuple[Case, Reply, bool]]) -> None:
    for _, reply, reused in some:
        if not (reply.final or reply.attempts):
            continue  # a limit was reached before it was asked about
        result.n_reused += reused
        result.n_asked += not reused
        verdict = reply.verdict
        result.n_distinct += verdict.distinct is True
        result.n_same += verdict.distinct is False
        if verdict.distinct is None:
            result.n_null += 1
            reason = verdict.reason or "no reason"
            result.reasons[reason] = result.reasons.get(reason, 0) + 1
