"""The tables of directions: what tells right from wrong answers in a state, how well, and against what."""

from ..key_columns import ANALYSIS, BOOL, DIM, DTYPE, F32, F64, I32, I64, POSITION, RUN, SEQUENCE, TEXT, VECTOR, columns
from ..table import Table

_DIRECTION = columns(
    ("direction_id", TEXT, "The direction: its method, site, layer and a hash of its vector.", None, True)
)

_PLACE = columns(
    (
        "method",
        TEXT,
        "mean-difference, logistic, lda, singular, random or given; in scores also the name of a baseline.",
        None,
        True,
    ),
    ("site", TEXT, "Site of the states; null for a baseline."),
    ("layer", I32, "Block of the states, 0 to L-1; null for a baseline."),
    ("at", TEXT, "prompt (its last token), answer (its last token) or mean (of the answer); null for a baseline."),
    ("unit", BOOL, "Whether states were scaled to length 1 first; null for a baseline."),
)

_WITHIN = columns(
    ("within", TEXT, "Only sequences of this value, as `column=value`; null for all."),
)

DIRECTIONS = Table(
    "directions",
    "One row per direction, fitted on all labelled sequences: the vector that points from false to true labels.",
    (RUN, ANALYSIS)
    + _DIRECTION
    + _PLACE
    + _WITHIN
    + columns(
        ("label", TEXT, "What is told apart: a column of `sequences`, `column=value`, or labels.", None, True),
        ("norm", F64, "Length of the vector.", "model units"),
        ("control_of", TEXT, "Of a random direction: the one it stands beside, of equal length; null otherwise."),
        ("n_right", I64, "Sequences whose label is true.", "sequences"),
        ("n_wrong", I64, "Sequences whose label is false.", "sequences"),
        (
            "threshold",
            F64,
            "Midpoint of both classes' mean inner product with the vector; above it the label is called true.",
        ),
    )
    + (DTYPE, DIM)
    + columns(("vector", VECTOR, "The direction with its own length (FLOAT[] in the view).", "model units", True)),
    key=("run_id", "analysis_id", "direction_id"),
    kind="derived",
    row_group_rows=8_192,
    compressed=False,
    vector="vector",
)

DIRECTION_SCORES = Table(
    "direction_scores",
    "One row per direction, baseline or control and fold: how well labels of unseen problems are told.",
    (RUN, ANALYSIS)
    + columns(
        ("direction_id", TEXT, "The direction whose kind is scored; null for baselines and controls."),
        ("kind", TEXT, "direction, baseline, or control (the mean of ten orders of shuffled labels).", None, True),
        ("baseline_group", TEXT, "Of a baseline: before (known with the prompt) or after (known with the answer)."),
    )
    + _PLACE
    + _WITHIN
    + columns(
        ("fold", TEXT, "0 to 4, or all: every problem scored by the fit that had not seen it.", None, True),
        ("n", I64, "Sequences scored.", "sequences"),
        ("n_prompts", I64, "Problems they belong to.", "prompts"),
        ("auroc", F64, "Share of (true, false) pairs of one fold in the right order, ties half.", "probability"),
        ("ci_low", F64, "Lower end of its 95 % interval, from problems drawn with replacement.", "probability"),
        ("ci_high", F64, "Upper end of that interval.", "probability"),
        ("accuracy", F64, "Share of labels told right by the training folds' threshold.", "probability"),
        ("ece_before", F64, "Expected calibration error of the method's own probabilities, 10 bins.", "probability"),
        ("ece_after", F64, "The same after Platt scaling fitted in the training folds.", "probability"),
        ("reason", TEXT, "Why a value is null."),
    ),
    key=("run_id", "analysis_id", "kind", "method", "site", "layer", "at", "within", "fold"),
    kind="derived",
)

DIRECTION_PROJECTIONS = Table(
    "direction_projections",
    "One row per direction and stored token of a labelled sequence: how far the state lies along the direction.",
    (RUN, SEQUENCE, POSITION, ANALYSIS)
    + _DIRECTION
    + columns(
        ("layer", I32, "Block of the state, 0 to L-1.", None, True),
        ("projection", F32, "Inner product with the stored direction at length 1, less its threshold.", "model units"),
        (
            "held_out",
            F32,
            "The same for the direction and threshold of the four folds without this problem: compare groups by it.",
            "model units",
        ),
        ("reason", TEXT, "Why a value is null."),
    ),
    key=("run_id", "sequence_id", "position", "analysis_id", "direction_id"),
    kind="derived",
)

DIRECTION_TOKENS = Table(
    "direction_tokens",
    "One row per direction, sign and token: the tokens that become most, and least, probable along the direction.",
    (RUN, ANALYSIS)
    + _DIRECTION
    + columns(
        ("sign", TEXT, "toward (along the direction) or away (against it).", None, True),
        ("place", I32, "0-based order, the strongest first.", None, True),
        ("token_id", I32, "Vocabulary id."),
        ("token", TEXT, "What the token adds to a text, for display."),
        (
            "score",
            F64,
            "Inner product of the direction at length 1 with the token's row of the unembedding less their mean; a "
            "direction of the residual stream is taken through the final norm's centring and gain first.",
            "logits",
        ),
    ),
    key=("run_id", "analysis_id", "direction_id", "sign", "place"),
    kind="derived",
)
