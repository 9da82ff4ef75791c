"""The tables of experiments with sampling: what a direction does to answers, and solutions that a service wrote."""

from ..key_columns import ANALYSIS, BOOL, F64, I32, I64, RUN, TEXT, columns
from ..table import Table

STEERING_EFFECTS = Table(
    "steering_effects",
    "One row per condition and measure: what adding a direction does to answers, against none and against random ones.",
    (RUN, ANALYSIS)
    + columns(
        ("condition", TEXT, "Run of the answers; the first is unsteered.", None, True),
        ("direction", TEXT, "Direction that was added; null for the unsteered answers."),
        ("method", TEXT, "How it was found: singular, mean-difference, random..."),
        ("control_of", TEXT, "Of a random direction: the one it stands beside."),
        ("site", TEXT, "Where it was added."),
        ("layer", I32, "Block where it was added, 0 to L-1."),
        ("strength", F64, "Multiple of the direction's own length; 0 for the unsteered answers.", None, True),
        (
            "measure",
            TEXT,
            "accuracy, mean_surprisal_bits (of the answer, by the steered model), answer_tokens, share:METHOD.",
            None,
            True,
        ),
        ("value", F64, "Mean over problems of the mean over a problem's answers."),
        ("ci_low", F64, "Lower end of its 95 % interval, from problems drawn with replacement."),
        ("ci_high", F64, "Upper end of that interval."),
        ("change", F64, "Mean over problems of the value less that of the unsteered answers."),
        ("change_ci_low", F64, "Lower end of the same interval of change."),
        ("change_ci_high", F64, "Upper end of that interval."),
        (
            "beyond_random",
            F64,
            "Mean over problems of the value less the mean of the random directions beside it, at equal strength.",
        ),
        ("beyond_random_ci_low", F64, "Lower end of the same interval of beyond_random."),
        ("beyond_random_ci_high", F64, "Upper end of that interval."),
        ("n_controls", I32, "Random directions beside it.", "directions"),
        ("n_prompts", I64, "Problems that have a value.", "prompts"),
        ("reason", TEXT, "Why a value of this row is null."),
    ),
    key=("run_id", "analysis_id", "condition", "measure"),
    kind="derived",
)

ORACLE_SOLUTIONS = Table(
    "oracle_solutions",
    "One row per problem and writer: the solution that a service wrote, and whether its answer is right.",
    (RUN, ANALYSIS)
    + columns(
        ("prompt_id", TEXT, "The problem.", None, True),
        ("writer", TEXT, "Name of the model that wrote it.", None, True),
        ("solution", TEXT, "Its text; null where there is none."),
        ("correct", BOOL, "Whether its answer is right; null without a reference answer or a solution."),
        ("template", TEXT, "First 12 hex digits of SHA-256 over the instructions.", None, True),
        ("content", TEXT, "Hash of writer, instructions and problem: equal calls are made once.", None, True),
        ("prompt_tokens", I64, "Tokens read, as the service counts.", "tokens"),
        ("completion_tokens", I64, "Tokens written, as the service counts.", "tokens"),
        ("cost_usd", F64, "Cost of all attempts; null if unknown.", "USD"),
        ("latency_ms", F64, "Wall time of all attempts.", "ms"),
        ("attempts", I32, "Requests made.", "calls"),
        ("cached", BOOL, "Whether an earlier solution was reused."),
        ("reason", TEXT, "Why there is no solution, or the answer of a wrong one."),
    ),
    key=("run_id", "analysis_id", "prompt_id", "writer"),
    kind="derived",
)
