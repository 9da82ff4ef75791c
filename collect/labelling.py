"""Verdicts on stored completions, given later: by another grader, or by another run over the same prompts.

Runs no model. The run's own grades stay in `sequences`; the same question is looked up, not asked again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from ..lake import Lake
from ..lake.analyses import commit_analysis
from ..lake.derived import Analysis, analysis_row, digest, input_digest, stored_analyses
from ..lake.errors import NotFoundError, UsageError
from ..lake.values import Columns, Json, Row
from .inputs.grading import Grader, Options, parse_grader, read_options

VERSION = 1
NAMED = 3
"""Missing prompts that a notice names."""


@dataclass(frozen=True)
class Labelled:
    """Verdicts that are in the lake: found there, or given now."""

    run_id: str
    analysis_id: str
    computed: bool
    n_labels: int
    n_right: int
    n_wrong: int
    notices: tuple[str, ...] = ()

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return dict(vars(self)) | {"notices": list(self.notices)}


def grade_run(lake: Lake, run: str, grader: str, *, table: str = "grades") -> Labelled:
    """Grade the completions of a run again, into `grades` or as verdicts into `labels`."""
    how = parse_grader(grader)
    run_id = lake.resolve_run(run)
    wanted = ["sequence_id", "prompt_id", "completion", "answer", "metadata"]
    rows = lake.scan("sequences", run_id).select(wanted).sort("sequence_id").collect()
    if rows["completion"].null_count() == rows.height:
        raise UsageError(f"Run {run_id} has no completions: it was only read. Grade one that generated.")
    if rows["answer"].null_count() == rows.height:
        raise UsageError(f"Run {run_id} has no reference answers: there is nothing to grade against.")
    name = "grade" if table == "grades" else "labels"
    # The name holds the version: the same grader of another version is another question.
    parameters = {"grader": grader, "graders": _names(how, rows), "version": VERSION}
    analysis = Analysis(run_id, name, parameters, input_digest(lake.snapshot(run_id), [("sequences", {})]))
    if (found := _stored(lake, analysis, table)) is not None:
        return found
    graded = [_graded(how, row) for row in rows.iter_rows(named=True)]
    columns = {name: [row[name] for row in graded] for name in graded[0]}
    if table == "labels":
        del columns["grader"], columns["predicted_answer"]
    n_without = rows["answer"].null_count()
    notices = [f"{n_without:,} of {rows.height:,} sequences have no reference answer."] if n_without else []
    return _commit(lake, analysis, table, columns, notices)


def _names(how: Grader, rows: pl.DataFrame) -> list[str]:
    return sorted({how.name(_options(text)) for text in rows["metadata"].unique()})


def _graded(how: Grader, row: Row) -> Row:
    options = _options(row["metadata"])
    common = {"sequence_id": row["sequence_id"], "prompt_id": row["prompt_id"], "grader": how.name(options)}
    if row["answer"] is None or row["completion"] is None:
        return common | {"predicted_answer": None, "correct": None, "label_reason": "no reference answer"}
    grade = how.grade(row["completion"], row["answer"], options)
    return common | {
        "predicted_answer": grade.predicted_answer, "correct": grade.correct, "label_reason": grade.reason,
    }  # fmt: skip


def _options(metadata: str | None) -> Options | None:
    """The options of an item, as its metadata keeps them."""
    given = (json.loads(metadata) if metadata else {}).get("options")
    try:
        return None if given is None else read_options(given)
    except ValueError:
        return None  # metadata of the user's own that is called so


def labels_from(lake: Lake, run: str, other: str) -> Labelled:
    """Each sequence gets the verdict that most graded samples of its prompt have in another run; ties have none."""
    run_id, source = lake.resolve_run(run), lake.resolve_run(other)
    if run_id == source:
        raise UsageError(f"Labels of run {run_id} are to come from itself. Name another run, or use --grader.")
    mine = lake.scan("sequences", run_id).select("sequence_id", "prompt_id").sort("sequence_id").collect()
    theirs = _majorities(lake, source)
    labels = mine.join(theirs, on="prompt_id", how="inner", maintain_order="left")
    if labels.height == 0:
        raise NotFoundError(
            f"Run {source} has graded none of the {mine['prompt_id'].n_unique():,} prompts of run {run_id} "
            f"(it has {theirs.height:,} others). Collect the same prompts, or choose another run."
        )
    missing = mine.join(theirs, on="prompt_id", how="anti")["prompt_id"].unique(maintain_order=True).to_list()
    reads = [input_digest(lake.snapshot(one), [("sequences", {})]) for one in (run_id, source)]
    parameters = {"labels_from": source, "version": VERSION}
    analysis = Analysis(run_id, "labels", parameters, digest(reads)[:16])
    if (found := _stored(lake, analysis, "labels")) is not None:
        return found
    columns = {name: labels[name].to_list() for name in labels.columns} | {"source_run_id": source}
    return _commit(lake, analysis, "labels", columns, _notices(mine, missing, labels), other=source)


def _majorities(lake: Lake, run_id: str) -> pl.DataFrame:
    """Per prompt of a run: share of right samples, how many were graded, the majority and why there is none."""
    graded = lake.scan("sequences", run_id).filter(pl.col("correct").is_not_null()).collect()
    if graded.height == 0:
        raise UsageError(
            f"Run {run_id} has no grades: its items had no reference answer, or it was only read. Choose a run that "
            "generated answers."
        )
    one = pl.col("n_samples") == 1
    share = pl.col("share")
    return (
        graded.group_by("prompt_id", maintain_order=True)
        .agg(
            pl.col("correct").cast(pl.Float64).mean().alias("share"),
            pl.len().cast(pl.Int32).alias("n_samples"),
            pl.col("label_reason").first().alias("first_reason"),
        )
        .with_columns(pl.when(share != 0.5).then(share > 0.5).alias("correct"))
        .with_columns(
            pl.when(one)
            .then(pl.col("first_reason"))
            .when(share == 0.5)
            .then(pl.lit("as many samples right as wrong"))
            .when(share < 0.5)
            .then(pl.lit("most samples are wrong"))
            .alias("label_reason")
        )
        .drop("first_reason")
    )


def _notices(mine: pl.DataFrame, missing: Sequence[str], labels: pl.DataFrame) -> list[str]:
    notices = []
    if missing:
        named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        n_prompts = mine["prompt_id"].n_unique()
        notices.append(f"{len(missing):,} of {n_prompts:,} prompts have no grade in the other run: {named}.")
    prompts = labels.unique("prompt_id")
    if mixed := prompts.filter((pl.col("share") > 0) & (pl.col("share") < 1)).height:
        ties = prompts["correct"].null_count()
        notices.append(
            f"{mixed:,} prompts have right and wrong samples there; {ties:,} of them as many, without label."
        )
    return notices


def _stored(lake: Lake, analysis: Analysis, table: str) -> Labelled | None:
    stored = stored_analyses(lake.snapshot(analysis.run_id).runs[analysis.run_id]).get(analysis.analysis_id)
    if stored is None:
        return None
    rows = lake.scan(table, analysis.run_id).filter(pl.col("analysis_id") == analysis.analysis_id).collect()
    return _labelled(analysis, rows["correct"].to_list(), computed=False)


def _commit(
    lake: Lake, analysis: Analysis, table: str, columns: Columns, notices: list[str], other: str | None = None
) -> Labelled:
    rows = {**columns, "analysis_id": analysis.analysis_id}
    about = analysis_row(analysis, len(columns["sequence_id"]), notices, other)
    commit_analysis(lake, analysis, {"analyses": about, table: rows})
    return _labelled(analysis, columns["correct"], computed=True, notices=notices)


def _labelled(
    analysis: Analysis, verdicts: Sequence[bool | None], *, computed: bool, notices: Sequence[str] = ()
) -> Labelled:
    n_right, n_wrong = sum(v is True for v in verdicts), sum(v is False for v in verdicts)
    run_id, analysis_id = analysis.run_id, analysis.analysis_id
    return Labelled(run_id, analysis_id, computed, len(verdicts), n_right, n_wrong, tuple(notices))
