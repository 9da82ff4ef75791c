"""The tables of what is typical of a run or a group, and how two of them differ."""

from .key_columns import ANALYSIS, F64, I32, I64, RUN, TEXT, columns
from .table import Table

_GROUP = columns(("label", TEXT, "The group: a run id, or a value of the column that was compared by.", None, True))

_METRIC = columns(
    ("metric", TEXT, "What is described, e.g. velocity, curvature_rad, surprisal_bits, n_loops.", None, True)
)

FINGERPRINTS = Table(
    "fingerprints",
    "One row per group and metric: the distribution that makes up a run's fingerprint.",
    (RUN, ANALYSIS)
    + _GROUP
    + _METRIC
    + columns(
        ("per", TEXT, "What one value belongs to: step or sequence."),
        ("n", I64, "Values.", "values"),
        ("n_prompts", I64, "Prompts they come from.", "prompts"),
        ("mean", F64, "Mean."),
        ("sd", F64, "Standard deviation (n-1)."),
        ("q05", F64, "5 % quantile."),
        ("q25", F64, "25 % quantile."),
        ("median", F64, "Median."),
        ("q75", F64, "75 % quantile."),
        ("q95", F64, "95 % quantile."),
        ("reason", TEXT, "Why values are null."),
    ),
    key=("run_id", "analysis_id", "label", "metric"),
    kind="derived",
)

COMPARISONS = Table(
    "comparisons",
    "One row per metric: the difference between two runs or two groups of sequences, tested prompt by prompt.",
    (RUN, ANALYSIS)
    + _METRIC
    + columns(
        ("label_a", TEXT, "The first group: a run id, or a value of the column that was compared by."),
        ("label_b", TEXT, "The second group."),
        ("other_run_id", TEXT, "Run of the second group, if it is another one."),
        ("design", TEXT, "`within prompts` (shared prompts, labels permuted within each) or `between prompts`."),
        ("n_a", I64, "Sequences of the first group that count.", "sequences"),
        ("n_b", I64, "Sequences of the second group that count.", "sequences"),
        ("n_prompts", I64, "Prompts that count.", "prompts"),
        ("mean_a", F64, "Mean over prompts of the first group's mean."),
        ("mean_b", F64, "Mean over prompts of the second group's mean."),
        ("difference", F64, "mean_a - mean_b."),
        ("ci_low", F64, "Lower end of its 95 % interval, from prompts drawn with replacement."),
        ("ci_high", F64, "Upper end of that interval."),
        ("effect_size", F64, "Difference over the standard deviation between prompts.", "standard deviations"),
        ("n_permutations", I64, "Permutations of the labels.", "permutations"),
        ("p_value", F64, "Two-sided permutation p-value.", "probability"),
        ("p_holm", F64, "The same, corrected by Holm for all metrics of the analysis.", "probability"),
        ("reason", TEXT, "Why values are null."),
    ),
    key=("run_id", "analysis_id", "metric"),
    kind="derived",
)

TRAJECTORY_CORRELATIONS = Table(
    "trajectory_correlations",
    "One row per pair of quantities and place: how velocity and curvature go with surprisal, entropy, correctness.",
    (RUN, ANALYSIS)
    + _GROUP
    + _METRIC
    + columns(
        ("other", TEXT, "What it is compared with: surprisal_bits, entropy_bits or correct.", None, True),
        (
            "steps_from_end",
            I32,
            "Steps before the last token of the answer (0 is the last); null: all steps, see docs/trajectories.md.",
            "steps",
        ),
        ("n", I64, "Pairs of values.", "values"),
        ("n_prompts", I64, "Prompts they come from.", "prompts"),
        ("spearman", F64, "Rank correlation."),
        ("ci_low", F64, "Lower end of its 95 % interval, from prompts drawn with replacement."),
        ("ci_high", F64, "Upper end of that interval."),
        ("reason", TEXT, "Why values are null."),
    ),
    key=("run_id", "analysis_id", "label", "metric", "other", "steps_from_end"),
    kind="derived",
)
