"""The tables that analyses write, as data: every row names its analysis, and all can be computed again."""

from .key_columns import ANALYSIS, BOOL, F32, F64, I16, I32, I64, POSITION, RUN, SEQUENCE, TEXT, TIME, columns
from .table import Table

_PATH = columns(
    ("embedder", TEXT, "Embedder of the path; null for a path of states."),
    ("scope", TEXT, "Text embedded: prompt+completion, completion or window:N tokens; null for a path of states."),
    ("site", TEXT, "Site of the states that make the path; null for a path of embeddings."),
    ("layer", I32, "Block of those states, 0 to L-1; null for a path of embeddings."),
)

ANALYSES = Table(
    "analyses",
    "One row per analysis: what was computed, with which parameters, from which committed files.",
    (RUN, ANALYSIS)
    + columns(
        ("name", TEXT, "trajectory, topology, compare, embed or labels.", None, True),
        ("parameters", TEXT, "Resolved parameters as JSON.", None, True),
        ("snapshot", TEXT, "First 16 hex digits of SHA-256 over the committed files that were read.", None, True),
        ("other_run_id", TEXT, "The second run of a comparison."),
        ("created_at", TIME, "When it was computed.", "UTC"),
        ("n_sequences", I64, "Sequences that were analysed.", "sequences"),
        ("notices", TEXT, "What a reader must know, one sentence after the other; null if nothing."),
    ),
    key=("run_id", "analysis_id"),
    kind="derived",
)

TRAJECTORIES = Table(
    "trajectories",
    "One row per step of a path: the sentence embeddings of the growing text, or the states of one site and layer.",
    (RUN, SEQUENCE, POSITION, ANALYSIS)
    + _PATH
    + columns(
        ("step", I32, "0-based index among generated tokens; null for prompt positions.", "tokens"),
        ("truncated", BOOL, "Whether the embedder cut the text of this step; null for states."),
        ("cos_to_prompt", F32, "Cosine to the prompt alone: its embedding, or the state at its last token."),
        ("cos_prev_step", F32, "Cosine to the step before."),
        ("velocity", F32, "Euclidean length of the step from the one before.", "vector units"),
        ("curvature_rad", F32, "Angle between the step to here and the one before it, 0 to pi.", "rad"),
        ("path_length", F32, "Sum of the velocities up to here.", "vector units"),
        ("velocity_z", F32, "Velocity as a z-score within the sequence.", "standard deviations"),
        ("curvature_z", F32, "Curvature as a z-score within the sequence.", "standard deviations"),
        ("umap_x", F32, "First coordinate in the UMAP plane of this sequence alone; no meaning across sequences."),
        ("umap_y", F32, "Second coordinate in that plane."),
        ("umap_velocity", F32, "Step length in that plane.", "UMAP units"),
        ("umap_curvature_rad", F32, "Turning angle in that plane, 0 to pi.", "rad"),
        ("shared_umap_x", F32, "First coordinate in the one UMAP plane of all sequences of the analysis."),
        ("shared_umap_y", F32, "Second coordinate in that plane."),
        ("reason", TEXT, "Why a value of this row is null, where it is not null by construction."),
    ),
    key=("run_id", "sequence_id", "position", "analysis_id"),
    kind="derived",
)

TRAJECTORY_SUMMARIES = Table(
    "trajectory_summaries",
    "One row per path: its length, its turns, how far it gets from the prompt, also in its own UMAP plane.",
    (RUN, SEQUENCE, ANALYSIS)
    + _PATH
    + columns(
        ("n_steps", I32, "Points of the path.", "steps"),
        ("n_truncated", I32, "Steps whose text the embedder cut; null for states.", "steps"),
        ("mean_velocity", F32, "Mean step length.", "vector units"),
        ("max_velocity", F32, "Longest step.", "vector units"),
        ("path_length", F32, "Sum of the step lengths.", "vector units"),
        ("end_to_end", F32, "Distance of the last point from the first.", "vector units"),
        ("tortuosity", F32, "Path length over end-to-end distance, 1 for a straight line."),
        ("mean_curvature_rad", F32, "Mean turning angle.", "rad"),
        ("max_curvature_rad", F32, "Sharpest turn.", "rad"),
        ("min_cos_to_prompt", F32, "Smallest cosine to the prompt."),
        ("half_life_step", I32, "First step whose cosine to the prompt is at most 0.95 of the first step's.", "steps"),
        ("umap_mean_velocity", F32, "Mean step length in the sequence's UMAP plane.", "UMAP units"),
        ("umap_max_velocity", F32, "Longest step in that plane.", "UMAP units"),
        ("umap_path_length", F32, "Path length in that plane.", "UMAP units"),
        ("umap_mean_curvature_rad", F32, "Mean turning angle in that plane.", "rad"),
        ("umap_max_curvature_rad", F32, "Sharpest turn in that plane.", "rad"),
        ("reason", TEXT, "Why a value of this row is null."),
    ),
    key=("run_id", "sequence_id", "analysis_id"),
    kind="derived",
)

_DIAGRAM = columns(
    ("space", TEXT, "`pca` (the path in at most 32 principal components) or `raw`.", None, True),
    ("dimension", I16, "Homology: 0 for components, 1 for loops.", None, True),
)

PERSISTENCE_PAIRS = Table(
    "persistence_pairs",
    "One row per point of a persistence diagram (Vietoris-Rips, Euclidean) of a path.",
    (RUN, SEQUENCE, ANALYSIS)
    + _DIAGRAM
    + columns(
        ("pair", I32, "0-based place in the diagram, the longest-lived first.", None, True),
        ("birth", F32, "Distance at which the class appears.", "vector units"),
        ("death", F32, "Distance at which it vanishes; null if it never does.", "vector units"),
        ("persistence", F32, "death - birth.", "vector units"),
        ("reason", TEXT, "Why death is null."),
    ),
    key=("run_id", "sequence_id", "analysis_id", "space", "dimension", "pair"),
    kind="derived",
)

PERSISTENCE_SUMMARIES = Table(
    "persistence_summaries",
    "One row per path, space and dimension: its persistence diagram in numbers, and what chance would give.",
    (RUN, SEQUENCE, ANALYSIS)
    + _DIAGRAM
    + _PATH
    + columns(
        ("n_points", I32, "Points of the path.", "steps"),
        ("n_landmarks", I32, "Points kept as landmarks (farthest first); equal to n_points if all were.", "steps"),
        ("cover_radius", F32, "Largest distance of a point from its landmark: bounds the error.", "vector units"),
        ("n_pairs", I32, "Finite pairs.", "pairs"),
        ("min_persistence", F32, "Persistence from which a loop counts.", "vector units"),
        ("n_loops", I32, "Loops of at least that persistence; null in dimension 0.", "loops"),
        ("max_persistence", F32, "Longest finite persistence.", "vector units"),
        ("total_persistence", F32, "Sum of the finite persistences.", "vector units"),
        ("persistence_entropy_bits", F32, "Entropy of the persistences as shares of their sum.", "bits"),
        ("null_paths", I32, "Paths of the null: the same steps in random order; see docs/trajectories.md.", "paths"),
        ("null_mean_loops", F32, "Mean number of loops of those paths.", "loops"),
        ("null_mean_max_persistence", F32, "Mean longest loop of those paths.", "vector units"),
        ("p_loops", F32, "Share of those paths, itself included, with at least as many loops.", "probability"),
        ("p_max_persistence", F32, "Share of those paths, itself included, with as long a loop.", "probability"),
        ("reason", TEXT, "Why a value of this row is null."),
    ),
    key=("run_id", "sequence_id", "analysis_id", "space", "dimension"),
    kind="derived",
)

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

LABELS = Table(
    "labels",
    "One row per sequence and set of verdicts: what people or another program call right. Grades stay in `sequences`.",
    (RUN, SEQUENCE, ANALYSIS)
    + columns(
        ("prompt_id", TEXT, "The sequence's prompt: first 16 hex digits of SHA-256 over it as given.", None, True),
        ("correct", BOOL, "The verdict; null where there is none."),
        ("source_run_id", TEXT, "Run whose sequences the verdict comes from; null if it was given for this run."),
        ("label_reason", TEXT, "Why, in the words of whoever gave it."),
    ),
    key=("run_id", "sequence_id", "analysis_id"),
    kind="derived",
)

DERIVED_TABLES = (
    ANALYSES,
    TRAJECTORIES,
    TRAJECTORY_SUMMARIES,
    PERSISTENCE_PAIRS,
    PERSISTENCE_SUMMARIES,
    FINGERPRINTS,
    COMPARISONS,
    TRAJECTORY_CORRELATIONS,
    LABELS,
)
