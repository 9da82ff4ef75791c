"""The tables of verdicts that were not given when the run was collected: by people, other runs, other graders."""

from ..key_columns import ANALYSIS, BOOL, F64, I32, RUN, SEQUENCE, TEXT, columns
from ..table import Table

LABELS = Table(
    "labels",
    "One row per sequence and set of verdicts: of people, another program, another run or grader. "
    "The run's own grades stay in `sequences`.",
    (RUN, SEQUENCE, ANALYSIS)
    + columns(
        ("prompt_id", TEXT, "First 16 hex digits of SHA-256 over the prompt as given; null where it is not known."),
        ("correct", BOOL, "The verdict; null where there is none."),
        ("source_run_id", TEXT, "Run whose sequences the verdict comes from; null if it was given for this run."),
        ("label_reason", TEXT, "Why, in the words of whoever gave it."),
        (
            "share",
            F64,
            "Share of the source's graded samples of the prompt that are right; null if it was not sampled.",
        ),
        ("n_samples", I32, "Graded samples of the prompt in the source.", "sequences"),
    ),
    key=("run_id", "sequence_id", "analysis_id"),
    kind="derived",
)

GRADES = Table(
    "grades",
    "One row per sequence that another grader judged later; the run's own grades stay in `sequences`.",
    (RUN, SEQUENCE, ANALYSIS)
    + columns(
        ("prompt_id", TEXT, "First 16 hex digits of SHA-256 over the prompt as given; null where it is not known."),
        ("grader", TEXT, "Name and version of the grader.", None, True),
        ("predicted_answer", TEXT, "The answer that was read; null where none could be."),
        ("correct", BOOL, "Whether it is the reference; null without a reference."),
        ("label_reason", TEXT, "Why it is not; null only if it is right."),
    ),
    key=("run_id", "sequence_id", "analysis_id"),
    kind="derived",
)
