"""The tables of sampling: how far samples spread, how far they are from an oracle, what one forced token changes."""

from ..key_columns import ANALYSIS, BOOL, F64, I32, I64, POSITION, RUN, SEQUENCE, TEXT, columns
from ..table import Table

_POOLED = columns(
    ("site", TEXT, "Site of the states.", None, True),
    ("layer", I32, "Block of the states, 0 to L-1.", None, True),
)

_PROMPT = columns(("prompt_id", TEXT, "The problem; null for the mean over problems."))

_REASON = columns(("reason", TEXT, "Why a value of this row is null."))

SAMPLING_VARIANCE = Table(
    "sampling_variance",
    "One row per problem, layer and checkpoint, and one over problems: how far the samples' pooled states spread.",
    (RUN, ANALYSIS)
    + _PROMPT
    + columns(("temperature", F64, "Sampling temperature; 0 is greedy.", None))
    + _POOLED
    + columns(
        ("stride", I32, "Every which answer token is pooled.", "tokens", True),
        ("window", I32, "Of these only the last so many; null: all.", "tokens"),
        ("checkpoint", I32, "Only answer tokens before this step; null: all.", "tokens"),
        ("within", TEXT, "Column whose groups `tr_cov_between` lies between; null if none was asked for."),
        ("n_samples", I64, "Samples of the problem, or of all of them.", "sequences"),
        ("n_reached", I64, "Of these, those with at least `checkpoint` answer tokens, or any.", "sequences"),
        ("n_pooled", I64, "Samples whose pooled state counts.", "sequences"),
        ("n_prompts", I64, "Problems that have a value.", "prompts"),
        ("tr_cov", F64, "Sum over dimensions of the variance of pooled states (n-1).", "model units squared"),
        ("tr_cov_between", F64, "The part of it between the groups of `within`.", "model units squared"),
        ("relative_variance", F64, "tr_cov over the mean squared length of pooled states."),
        ("mean_pairwise_cosine", F64, "Mean cosine over pairs of samples."),
        ("se_tr_cov", F64, "Jackknife error of tr_cov over samples; null over problems.", "model units squared"),
        ("ci_low", F64, "Lower end of the 95 % interval of tr_cov, from problems drawn with replacement."),
        ("ci_high", F64, "Upper end of that interval."),
        ("cosine_ci_low", F64, "Lower end of the same interval of mean_pairwise_cosine."),
        ("cosine_ci_high", F64, "Upper end of that interval."),
    )
    + _REASON,
    key=("run_id", "analysis_id", "prompt_id", "layer", "checkpoint"),
    kind="derived",
)

ORACLE_DISTANCES = Table(
    "oracle_distances",
    "One row per sequence, scope and layer: how far its pooled state is from that of its problem's oracle solution.",
    (RUN, SEQUENCE, ANALYSIS)
    + columns(
        ("answer_run_id", TEXT, "Run of the sequence: the analysis may be of several.", None, True),
        ("prompt_id", TEXT, "The problem."),
        ("oracle_run_id", TEXT, "Run that read the oracle."),
        ("oracle_sequence_id", I64, "The oracle's sequence in it."),
        ("share", F64, "Forced tokens over the oracle's tokens; 0 if free."),
        (
            "n_prefix",
            I32,
            "Forced tokens; for a free row of scope `rest`, those of the forced row it answers.",
            "tokens",
        ),
        ("scope", TEXT, "whole (all answer tokens) or rest (steps from n_prefix on, on both sides).", None, True),
        ("condition", TEXT, "free, or forced: the answer began with the oracle's tokens.", None, True),
    )
    + _POOLED
    + columns(
        ("n_tokens", I32, "Answer tokens pooled.", "tokens"),
        ("n_oracle_tokens", I32, "Tokens of the oracle pooled.", "tokens"),
        ("distance", F64, "Euclidean distance of both pooled states.", "model units"),
        ("cosine", F64, "Their cosine."),
        ("relative_distance", F64, "Distance over the length of the oracle's state."),
        (
            "improvement",
            F64,
            "Distance of the free answer less that of this forced one, at equal scope.",
            "model units",
        ),
        ("retokenised", BOOL, "Whether the oracle's ids are those of its text alone; null if unknown."),
    )
    + _REASON,
    key=(
        "run_id",
        "sequence_id",
        "analysis_id",
        "answer_run_id",
        "oracle_run_id",
        "oracle_sequence_id",
        "scope",
        "n_prefix",
        "layer",
    ),  # fmt: skip
    kind="derived",
)

PATH_SENSITIVITY = Table(
    "path_sensitivity",
    "One row per forced alternative and layer: how far one other token at one step moves the rest of the answer.",
    (RUN, SEQUENCE, ANALYSIS)
    + columns(("step", I32, "Step at which the branch differs.", "tokens", True))
    + (POSITION,)
    + columns(
        ("branch_run_id", TEXT, "Run of the branch.", None, True),
        ("branch_sequence_id", I64, "The branch's sequence in it.", None, True),
        ("token_id", I32, "The baseline's token at this step."),
        ("alternative_id", I32, "The token forced in its place."),
        ("alternative_rank", I32, "Tokens with a larger raw logit than it; null beyond the stored best.", "tokens"),
        ("margin", F64, "Raw log-probability of the baseline's token less that of the alternative.", "nats"),
    )
    + _POOLED
    + columns(
        ("lookahead", I32, "Tokens of the window, the forced one included.", "tokens", True),
        ("divergence", F64, "Distance of both means over the window without the forced step.", "model units"),
        ("divergence_with_forced", F64, "The same with the forced step.", "model units"),
        ("n_baseline", I32, "Tokens in the baseline's mean.", "tokens"),
        ("n_branch", I32, "Tokens in the branch's mean.", "tokens"),
        ("complete", BOOL, "Whether both are the whole window: ranks and means use such rows only."),
        ("n_equal_tokens", I32, "Steps of the window, the forced one left out, with equal tokens.", "tokens"),
        ("baseline_answer", TEXT, "Answer found in the baseline; null where its text was cut by length."),
        ("branch_answer", TEXT, "Answer found in the branch; null where its text was cut by length."),
        ("answer_changed", BOOL, "Whether these differ; null where either text was cut by length."),
        ("branch_correct", BOOL, "Whether the branch's answer is right."),
    )
    + _REASON,
    key=("run_id", "sequence_id", "analysis_id", "step", "branch_run_id", "branch_sequence_id", "layer"),
    kind="derived",
)

_CLUSTERING = columns(
    ("method", TEXT, "kmeans, agglomerative or hdbscan.", None, True),
)

SOLUTION_CLUSTERS = Table(
    "solution_clusters",
    "One row per correct solution with a text of its own: its cluster among the solutions of its problem.",
    (RUN, SEQUENCE, ANALYSIS)
    + columns(("prompt_id", TEXT, "The problem.", None, True))
    + _CLUSTERING
    + _POOLED
    + columns(
        ("scope", TEXT, "prompt (within the problem) or all (over problems, each centred).", None, True),
        ("k", I32, "Clusters.", "clusters"),
        ("cluster", I32, "Number of the cluster, the largest first; null for what HDBSCAN calls noise."),
        ("is_representative", BOOL, "Whether it is the nearest to its cluster's centroid."),
        ("centroid_distance", F64, "Distance from that centroid.", "model units"),
        ("pc_x", F64, "First principal component of what was clustered together.", "model units"),
        ("pc_y", F64, "Second one.", "model units"),
        ("same_text_as", I64, "Sequence whose text this one repeats: it was not clustered itself."),
    )
    + _REASON,
    key=("run_id", "sequence_id", "analysis_id", "method", "scope"),
    kind="derived",
)

CLUSTER_SUMMARIES = Table(
    "cluster_summaries",
    "One row per problem and clustering, and one over problems: how many clusters, how clear, how like a known label.",
    (RUN, ANALYSIS)
    + _PROMPT
    + _CLUSTERING
    + _POOLED
    + columns(
        ("scope", TEXT, "prompt (within problems) or all (over problems, each centred).", None, True),
        ("n_correct", I64, "Correct solutions.", "sequences"),
        ("n_distinct_texts", I64, "Of these, different texts.", "sequences"),
        ("k", I32, "Clusters; null over problems.", "clusters"),
        ("silhouette", F64, "Mean silhouette."),
        ("ari_method", F64, "Adjusted Rand index with `solution_method`."),
        ("ari_judge", F64, "Adjusted Rand index with the groups that the judge's verdicts make."),
        ("distinctness", F64, "Distinct verdicts over verdicts, on pairs of representatives.", "probability"),
        ("n_pairs", I64, "Pairs of representatives.", "pairs"),
        ("n_verdicts", I64, "Of these, pairs with a verdict.", "pairs"),
        ("n_prompts", I64, "Problems that have a value.", "prompts"),
        ("ci_low", F64, "Lower end of the 95 % interval of ari_method, from problems drawn with replacement."),
        ("ci_high", F64, "Upper end of that interval."),
    )
    + _REASON,
    key=("run_id", "analysis_id", "prompt_id", "method", "scope"),
    kind="derived",
)

JUDGEMENTS = Table(
    "judgements",
    "One row per pair of solutions and order: whether a judge calls them distinct. A failure is null, never `no`.",
    (RUN, ANALYSIS)
    + columns(
        ("prompt_id", TEXT, "The problem.", None, True),
        ("sequence_a", I64, "The first solution as it was shown.", None, True),
        ("sequence_b", I64, "The second one.", None, True),
        ("judge", TEXT, "Name of the model, or local, or known.", None, True),
        ("template", TEXT, "First 12 hex digits of SHA-256 over the instructions; null without any."),
        ("order", I32, "0: as sorted by sequence_id; 1: the other way round.", None, True),
        ("distinct", BOOL, "The verdict; null where there is none."),
        ("reply", TEXT, "The judge's reason, or its reply where that is no verdict."),
        ("content", TEXT, "Hash of judge, template and both texts: equal calls are made once.", None, True),
        ("prompt_tokens", I64, "Tokens read, as the service counts.", "tokens"),
        ("completion_tokens", I64, "Tokens written, as the service counts.", "tokens"),
        ("cost_usd", F64, "Cost of all attempts; null if unknown.", "USD"),
        ("latency_ms", F64, "Wall time of all attempts.", "ms"),
        ("attempts", I32, "Requests made.", "calls"),
        ("cached", BOOL, "Whether an earlier verdict was reused."),
    )
    + _REASON,
    key=("run_id", "analysis_id", "sequence_a", "sequence_b", "order"),
    kind="derived",
)

PASS_RATES = Table(
    "pass_rates",
    "One row per condition and k: the chance that at least one of k samples is right, averaged over problems.",
    (RUN, ANALYSIS)
    + columns(
        ("condition", TEXT, "What was done to the model: the run, or an edit and its strength.", None, True),
        ("direction", TEXT, "Direction of the edit; null without one."),
        ("layer", I32, "Layer of the edit; null without one."),
        ("strength", F64, "Multiple of the direction; null without one."),
        ("k", I32, "Samples of which one must be right.", "sequences", True),
        ("n_samples", I64, "Samples.", "sequences"),
        ("n_correct", I64, "Of these, right ones.", "sequences"),
        ("n_prompts", I64, "Problems with at least k graded samples.", "prompts"),
        ("pass_at_k", F64, "Mean over problems of 1 - C(n-c, k) / C(n, k).", "probability"),
        ("ci_low", F64, "Lower end of its 95 % interval, from problems drawn with replacement.", "probability"),
        ("ci_high", F64, "Upper end of that interval.", "probability"),
    )
    + _REASON,
    key=("run_id", "analysis_id", "condition", "k"),
    kind="derived",
)
