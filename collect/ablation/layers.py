"""What a model loses without one of its parts: loss on reference solutions and greedy accuracy, part by part (A4a).

Every row of a batch has the edit of its own condition, so that all conditions share their passes. Sums over problems
and intervals are an analysis of the rows written here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.derived import Analysis, input_digest
from ...lake.errors import ConfigError, NotFoundError, UsageError, did_you_mean
from ...lake.values import Columns, Json
from ..configuration.edit import EDIT_SCOPES
from ..configuration.keep import ActivationKeep
from ..decoding.reading.check import choose_reading
from ..decoding.sequence import Sequence as Row
from ..models.editing.changes import Mean, Zero
from ..models.editing.edits import Edit
from ..models.model import LoadedModel
from ..models.sites.site_names import check_site
from ..passes import ChunkRows, commit_chunks, is_whole, sequences_with_rows
from .continuation import AnswerSettings, GreedyAnswers, reference_losses
from .reference_solutions import NEITHER, Problem, read_problems
from .site_means import site_means

NONE, ZERO, MEAN, ALL = "none", "zero", "mean", "all"
ROWS = 128
"""Rows of one batch: conditions of one problem beside each other, then those of the next."""
CHUNK_ROWS = 2048
"""Rows between two commits: what an interruption can cost."""
TRAIN = "train"


@dataclass(frozen=True)
class AblationOptions:
    """What is taken away, one site and layer at a time."""

    sites: tuple[str, ...] = ("attn_out", "mlp_out")
    actions: tuple[str, ...] = (ZERO,)
    layers: str = ALL
    scope: str = ALL
    means_from: str | None = None
    """Run whose train split gives the means; the run itself if None."""
    oracle: str | None = None
    """Name of the reference solution; the first that problems have if None."""
    limit: int | None = None

    def check(self) -> None:
        """UsageError for options that cannot be."""
        for site in self.sites:
            check_site(site)
        if unknown := [action for action in self.actions if action not in (ZERO, MEAN)]:
            raise UsageError(f"There is no --action {unknown[0]!r}.{did_you_mean(unknown[0], (ZERO, MEAN))}")
        if not self.sites or not self.actions:
            raise UsageError("Name at least one site (--sites) and one action (--action zero,mean).")
        if self.scope not in EDIT_SCOPES:
            raise UsageError(f"There is no --scope {self.scope!r}.{did_you_mean(self.scope, EDIT_SCOPES, show=4)}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be at least 1, not {self.limit}.")


@dataclass
class AblationResult:
    """What a call did."""

    run_id: str
    analysis_id: str
    computed: bool
    n_problems: int = 0
    n_conditions: int = 0
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Condition:
    """One part taken away in one way; the unedited model has no edits."""

    site: str | None
    layer: int | None
    action: str
    edits: tuple[Edit, ...] = ()


def ablate(
    lake: Lake,
    run: str,
    options: AblationOptions,
    load: Callable[[], LoadedModel],
    *,
    on_progress: Callable[[int, int], None] = lambda done, everything: None,
) -> AblationResult:
    """Write `ablated_problems` of a run; problems that have their rows already are not computed again."""
    options.check()
    run_id = lake.resolve_run(run)
    source = _mean_source(lake, run_id, options) if MEAN in options.actions else None
    asked: Json = dict(vars(options)) | {"sites": list(options.sites), "actions": list(options.actions)}
    digests = [input_digest(lake.snapshot(run_id), [("sequences", {}), ("token_steps", {})])]
    if source is not None:
        asked["means_from"] = source[0]
        digests.append(input_digest(lake.snapshot(source[0]), [("token_steps", {})]))
    analysis = Analysis(run_id, "ablation", asked, "-".join(digests))
    result = AblationResult(run_id, analysis.analysis_id, not is_whole(lake, analysis))
    if result.computed:
        _compute(lake, analysis, options, load(), source, result, on_progress)
    return result


def _mean_source(lake: Lake, run_id: str, options: AblationOptions) -> tuple[str, list[int]]:
    """The run and its sequences that give means: a train split, or a run named, so that no problem has its own mean."""
    source = run_id if options.means_from is None else lake.resolve_run(options.means_from)
    rows = lake.scan("sequences", source).select("sequence_id", "split").sort("sequence_id").collect()
    train = rows.filter(pl.col("split") == TRAIN)
    if source != run_id and rows["split"].null_count() == rows.height:
        train = rows  # a run without splits that was named for it
    if not train.height:
        splits = ", ".join(sorted(map(str, set(rows["split"].to_list()) - {None}))) or "none"
        raise NotFoundError(
            f"Means are taken from the split `train`, and run {source} has none (splits: {splits}). Collect one "
            "(--dataset NAME:train --tag train) and name it: --means-from train; or ablate with --action zero alone."
        )
    return source, train["sequence_id"].to_list()


def _compute(
    lake: Lake,
    analysis: Analysis,
    options: AblationOptions,
    loaded: LoadedModel,
    source: tuple[str, list[int]] | None,
    result: AblationResult,
    on_progress: Callable[[int, int], None],
) -> None:
    if loaded.encoder is not None:
        raise ConfigError(f"{type(loaded.model).__name__} has an encoder: layers of decoder-only models are ablated.")
    conditions = conditions_of(lake, options, loaded, source)
    if source is not None:
        result.notices.append(f"Means are over all tokens of {len(source[1]):,} sequences of run {source[0]}.")
    found = read_problems(
        lake, analysis.run_id, loaded.tokenizer, oracle=options.oracle, limit=options.limit
    )  # fmt: skip
    result.n_problems, result.n_conditions = len(found.problems), len(conditions)
    result.notices += found.notices
    settings = AnswerSettings.of(lake.run_json(analysis.run_id).get("config") or {})
    if not settings.max_new_tokens:
        result.notices.append("The run was only read: nothing is generated, and there is no accuracy.")
    _check_lengths(loaded, found.problems)
    ablation = _Ablation(loaded, settings, conditions, options.scope)
    done = sequences_with_rows(lake, analysis.run_id, "ablated_problems", {"analysis_id": analysis.analysis_id})
    missing = [one for one in found.problems if one.sequence_id not in done]
    size = max(1, CHUNK_ROWS // len(conditions))
    chunks = [missing[start : start + size] for start in range(0, len(missing), size)]
    n_done = [len(done)]

    def told(number: int, chunk: list[Problem]) -> None:
        n_done[0] += len(chunk)
        on_progress(n_done[0], len(found.problems))

    commit_chunks(
        lake, analysis, chunks or [[]],
        lambda chunk: ChunkRows({"ablated_problems": ablation.columns(chunk) | {"analysis_id": analysis.analysis_id}}),
        n_sequences=len(found.problems), notices=lambda: result.notices, replace_older=True, on_chunk=told,
    )  # fmt: skip


def conditions_of(
    lake: Lake, options: AblationOptions, loaded: LoadedModel, source: tuple[str, list[int]] | None
) -> list[Condition]:
    """The unedited model, then every action at every site and layer; each edit fits the model."""
    wanted = None if options.layers == ALL else options.layers
    places = [
        (site, layer) for site in options.sites for layer in ActivationKeep(site, wanted, None).resolve(loaded.n_layers)
    ]
    zeros = [Edit(site, layer, Zero(), options.scope) for site, layer in places]
    for edit in zeros:
        edit.check(loaded)
    conditions = [Condition(None, None, NONE)]
    if ZERO in options.actions:
        conditions += [Condition(edit.site, edit.layer, ZERO, (edit,)) for edit in zeros]
    if source is not None:
        means = site_means(lake, *source, loaded, places)
        for site, layer in places:
            edit = Edit(site, layer, Mean(means[site, layer]), options.scope)
            conditions.append(Condition(site, layer, MEAN, (edit,)))
    return conditions


def _check_lengths(loaded: LoadedModel, problems: Sequence[Problem]) -> None:
    for one in problems:
        n = len(one.prompt_ids) + len(one.reference)
        if n > loaded.context_length:
            raise ConfigError(
                f"The prompt and reference solution of sequence {one.sequence_id} have {n:,} tokens; the model takes "
                f"{loaded.context_length:,}. Choose a shorter one (--oracle), or leave such problems out (--limit)."
            )


class _Ablation:
    """Loss and answer of problems under every condition."""

    def __init__(
        self, loaded: LoadedModel, settings: AnswerSettings, conditions: Sequence[Condition], scope: str
    ) -> None:
        self.loaded, self.conditions, self.scope = loaded, conditions, scope
        self.reading = choose_reading(loaded)
        self.answers = GreedyAnswers(loaded, settings, self.reading) if settings.max_new_tokens else None

    def columns(self, problems: Sequence[Problem]) -> Columns:
        """The columns of `ablated_problems`, without the analysis."""
        rows = [(one, condition) for one in problems for condition in self.conditions]
        losses = np.full(len(rows), np.nan)
        for group in self._groups(rows, lambda one: len(one.prompt_ids) + len(one.reference)):
            known = [i for i in group if rows[i][0].reference]
            if known:
                given = [self._row(i, *rows[i], True) for i in known]
                losses[known] = reference_losses(self.loaded, given, self.reading)
        answers: list[Json] = [{} for _ in rows]
        if self.answers is not None:
            for group in self._groups(rows, lambda one: len(one.prompt_ids)):
                graded = self.answers.answer(
                    [self._row(i, *rows[i], False) for i in group], [rows[i][0].answer for i in group],
                    [rows[i][0].options for i in group],
                )  # fmt: skip
                for i, answer in zip(group, graded, strict=True):
                    answers[i] = answer
        return {
            "sequence_id": [one.sequence_id for one, _ in rows],
            "site": [condition.site for _, condition in rows],
            "layer": [condition.layer for _, condition in rows],
            "action": [condition.action for _, condition in rows],
            "scope": self.scope,
            "n_tokens": [len(one.reference) for one, _ in rows],
            "loss": [None if np.isnan(loss) else float(loss) for loss in losses],
            "predicted_answer": [answer.get("predicted_answer") for answer in answers],
            "correct": [answer.get("correct") for answer in answers],
            "n_generated_tokens": [answer.get("n_generated_tokens") for answer in answers],
            "reason": [_reason(one, answer) for (one, _), answer in zip(rows, answers, strict=True)],
        }

    def _row(self, index: int, problem: Problem, condition: Condition, with_reference: bool) -> Row:
        row = Row(index, index, 0, problem.prompt_ids, edits=condition.edits)
        row.given = problem.reference if with_reference else ()
        row.begin()
        return row

    def _groups(
        self, rows: Sequence[tuple[Problem, Condition]], length: Callable[[Problem], int]
    ) -> Iterator[list[int]]:
        """Rows that share a batch: whole problems where they fit, those of like length beside each other."""
        most = 0 if self.answers is None else self.answers.limits.max_new_tokens
        groups: dict[Any, list[int]] = {}
        for i in sorted(range(len(rows)), key=lambda i: -length(rows[i][0])):
            key = i if self.reading.alone else self.reading.group(0, length(rows[i][0]), most)
            groups.setdefault(key, []).append(i)
        size = max(1, ROWS // len(self.conditions)) * len(self.conditions)
        for group in groups.values():
            yield from (group[start : start + size] for start in range(0, len(group), size))


def _reason(problem: Problem, answer: Json) -> str | None:
    if not problem.reference:
        return NEITHER
    if not answer:
        return "nothing was generated"
    return None if answer["correct"] is not None else answer["reason"]
