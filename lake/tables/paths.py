"""The tables of paths: embeddings of the growing text, trajectories, and the topology of both."""

from .key_columns import ANALYSIS, BOOL, DIM, DTYPE, F32, I16, I32, POSITION, RUN, SEQUENCE, TEXT, VECTOR, columns
from .table import Table

STEP_EMBEDDINGS = Table(
    "step_embeddings",
    "One row per generated token, embedder and scope: the sentence embedding of the text up to this token; and one for "
    "the prompt alone, at its last token.",
    (RUN, SEQUENCE, POSITION)
    + columns(
        ("embedder", TEXT, "Name of the sentence-transformers model.", None, True),
        ("scope", TEXT, "Text embedded: prompt+completion, completion, window:N tokens, or prompt.", None, True),
        ("step", I32, "0-based index among generated tokens; null for the prompt alone.", "tokens"),
        ("n_pieces", I32, "Word pieces of the text before truncation by the embedder.", "word pieces"),
        ("truncated", BOOL, "Whether the embedder cut the text."),
    )
    + (DTYPE, DIM)
    + columns(("vector", VECTOR, "The embedding, of unit length (FLOAT[] in the view).", None, True)),
    key=("run_id", "sequence_id", "position", "embedder", "scope"),
    row_group_rows=8_192,
    compressed=False,
    vector="vector",
)

_PATH = columns(
    ("embedder", TEXT, "Embedder of the path; null for a path of states."),
    ("scope", TEXT, "Text embedded: prompt+completion, completion or window:N tokens; null for a path of states."),
    ("site", TEXT, "Site of the states that make the path; null for a path of embeddings."),
    ("layer", I32, "Block of those states, 0 to L-1; null for a path of embeddings."),
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
