"""`feature_judgements`: a judge names features and is tested on the names; rows are committed as replies come."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field

import polars as pl

from ....lake import Lake
from ....lake.analyses import commit_analysis
from ....lake.derived import Analysis, analysis_row, digest, stored_analyses
from ....lake.errors import StoppedError, UsageError
from ....lake.values import Json, Row
from ..service.asking import in_groups, replies
from ..service.client import Judge, Reply, Request, Service
from ..service.limits import Allowance
from ..verdict import Verdict
from .feature_template import content, feature_digest
from .feature_trials import DETECTION, FUZZING, LABEL, Trial, label_trial, score_trials
from .labelled_features import FeatureTables, chosen_features, feature_tables
from .passages import feature_passages

AT_ONCE = 16
"""Replies of one commit: what an interruption can cost."""
FEATURES_AT_ONCE = 64
"""Features whose passages are in memory at one time."""
Outcome = tuple[Trial, Reply, bool]
"""What was asked, the reply, and whether it is an earlier one."""


@dataclass(frozen=True)
class LabelOptions:
    """Which features are named by whom, and what that may cost."""

    service: Service
    features: tuple[int, ...] = ()
    """Features; empty for `n` of the active ones, drawn."""
    n: int = 20
    allowance: Allowance = field(default_factory=Allowance)

    def check(self) -> None:
        """UsageError for what cannot be."""
        if self.n < 1:
            raise UsageError(f"--n must be 1 or more, not {self.n}.")
        self.allowance.check()


@dataclass
class Labelled:
    """What a call of `label_features` did."""

    sae_id: str
    run_id: str
    analysis_id: str
    judge: str
    n_features: int = 0
    n_stored: int = 0
    """Answers that were there."""
    n_reused: int = 0
    """Answers to equal questions, reused."""
    n_asked: int = 0
    n_calls: int = 0
    """Requests, retries included."""
    n_labels: int = 0
    detection: float | None = None
    fuzzing: float | None = None
    """Mean balanced accuracies over the features that have one."""
    spent_usd: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    """Why there is no label or score."""

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return asdict(self)


def label_features(
    lake: Lake,
    sae: str,
    run: str,
    options: LabelOptions,
    *,
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> Labelled:
    """Ask what has no final answer yet; StoppedError (resumable) after the last commit if a limit was reached."""
    options.check()
    tables = feature_tables(lake, sae, run)
    features = chosen_features(lake, tables, options.features, options.n)
    analysis = _analysis(tables, options.service)
    result = Labelled(tables.sae_id, tables.run_id, analysis.analysis_id, options.service.model, len(features))
    rows: list[Row] = []
    with _Asking(lake, analysis, options, result) as asking:
        for start in range(0, len(features), FEATURES_AT_ONCE):
            some = feature_passages(lake, tables.named, features[start : start + FEATURES_AT_ONCE])
            named = asking.answers(label_trial(one) for one in some)
            labels = {row["feature"]: row["label"] for row in named}
            rows += named + asking.answers(t for one in some for t in score_trials(one, labels.get(one.feature)))
            on_progress(start + len(some), len(features))
    _count(result, rows)
    if asking.limits.reached:
        raise StoppedError(
            f"Labelling features of {tables.sae_id} stopped at {asking.limits.reached}: {result.n_asked:,} questions "
            f"were asked, {result.n_calls:,} calls, {result.spent_usd:.4f} USD. What was said is stored; the same "
            "command goes on with a higher limit."
        )
    [log] = lake.snapshot(tables.run_id).runs.values()
    stored = stored_analyses(log).get(analysis.analysis_id)
    if stored is not None and "analyses" not in stored.n_rows:
        notices = [f"{n:,} without a label or score: {reason}." for reason, n in sorted(result.reasons.items())]
        commit_analysis(lake, analysis, {"analyses": analysis_row(analysis, 0, notices, None)}, partial=True)
    return result


def _analysis(tables: FeatureTables, service: Service) -> Analysis:
    """Named after the feature tables that it reads: when these are computed anew, older labels go."""
    about = {"sae_id": tables.sae_id, "judge": service.model, "base_url": service.base_url,
             "template": feature_digest()}  # fmt: skip
    return Analysis(tables.run_id, "sae-labels", about, digest(tables.analysis_id)[:16])


def _count(result: Labelled, rows: list[Row]) -> None:
    result.n_labels = sum(row["kind"] == LABEL and row["label"] is not None for row in rows)
    scores = {kind: [r["balanced_accuracy"] for r in rows if r["kind"] == kind] for kind in (DETECTION, FUZZING)}
    known = {kind: [one for one in values if one is not None] for kind, values in scores.items()}
    result.detection, result.fuzzing = (sum(v) / len(v) if v else None for v in known.values())
    reasons = Counter(f"{row['kind']}: {row['reason']}" for row in rows if row["reason"])
    result.reasons = dict(reasons + Counter(result.reasons))


class _Asking:
    """The judge, what it has said in this lake before, and the rows of this analysis."""

    def __init__(self, lake: Lake, analysis: Analysis, options: LabelOptions, result: Labelled) -> None:
        self._lake, self._analysis, self._options, self._result = lake, analysis, options, result
        self.limits = options.allowance.limits()
        self._judge: Judge | None = None
        rows = lake.scan("feature_judgements").filter(pl.col("judge") == options.service.model).collect()
        self._before = {row["content"]: row for row in rows.iter_rows(named=True)}
        own = rows.filter(pl.col("analysis_id") == analysis.analysis_id)
        self._stored = {(row["feature"], row["kind"], row["content"]): row for row in own.iter_rows(named=True)}

    def __enter__(self) -> "_Asking":
        return self

    def __exit__(self, *_: object) -> None:
        self._result.n_calls, self._result.spent_usd = self.limits.calls, self.limits.spent_usd
        if self._judge is not None:
            self._judge.close()

    def answers(self, trials: Iterable[Trial]) -> list[Row]:
        """The rows of all trials that have an answer; new ones are committed as they come."""
        rows: list[Row] = []
        for some in in_groups(self._outcomes(trials, rows), AT_ONCE):
            final = [self._row(trial, reply, reused) for trial, reply, reused in some if reply.final]
            if final:
                columns = {name: [row[name] for row in final] for name in final[0]}
                table = columns | {"analysis_id": self._analysis.analysis_id}
                commit_analysis(self._lake, self._analysis, {"feature_judgements": table}, partial=True)
            for trial, reply, reused in some:
                self._result.n_reused += reused
                self._result.n_asked += trial.request is not None and not reused and (reply.final or reply.attempts > 0)
                if reply.attempts and not reply.final:  # what is not stored is told here only
                    words = f"{trial.kind}: {reply.verdict.reason}"
                    self._result.reasons[words] = self._result.reasons.get(words, 0) + 1
            rows += final
        return rows

    def _outcomes(self, trials: Iterable[Trial], stored: list[Row]) -> Iterator[Outcome]:
        """Outcomes of what is not stored; the rows of what is go to `stored`."""
        fresh: list[tuple[Trial, Request]] = []
        for trial in trials:
            key = self._content(trial)
            if (row := self._stored.get((trial.feature, trial.kind, key))) is not None:
                self._result.n_stored += 1
                stored.append(row)
            elif trial.request is None:
                yield trial, Reply(Verdict(None, None, trial.reason), final=True), False
            elif (row := self._before.get(key)) is not None:
                yield trial, Reply(Verdict(None, row["reply"], row["reason"]), final=True), True
            else:
                fresh.append((trial, trial.request))
        if fresh and not self.limits.reached:
            yield from (
                (trial, reply, False)
                for trial, reply in replies(self._ready(), fresh, self._options.allowance.concurrency)
            )

    def _ready(self) -> Judge:
        if self._judge is None:
            self._judge = Judge(self._options.service, self.limits, self._options.allowance.price)
            self._judge.learn_price()
        return self._judge

    def _content(self, trial: Trial) -> str | None:
        return None if trial.request is None else content(self._options.service.model, trial.request)

    def _row(self, trial: Trial, reply: Reply, reused: bool) -> Row:
        verdict, fine = reply.verdict, reply.verdict.reason is None and reply.verdict.reply is not None
        scores: Json = dict.fromkeys(("n_right", "n_wrong", "sensitivity", "specificity", "balanced_accuracy"))
        if fine and trial.kind != LABEL:
            scores |= trial.score(str(verdict.reply))
        return {
            "sae_id": self._analysis.parameters["sae_id"], "feature": trial.feature, "kind": trial.kind,
            "judge": self._options.service.model, "template": feature_digest(),
            "label": (verdict.reply if fine else None) if trial.kind == LABEL else trial.label,
            "reply": verdict.reply, **scores, "content": self._content(trial),
            "prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens,
            "cost_usd": reply.cost_usd, "latency_ms": reply.latency_ms if reply.attempts else None,
            "attempts": reply.attempts, "cached": reused, "reason": verdict.reason,
        }  # fmt: skip
