"""The tables of detection: what signals tell of labels, how well, what is kept at which risk, and the detectors."""

from ..key_columns import ANALYSIS, BOOL, F64, I32, I64, RUN, SEQUENCE, TEXT, columns
from ..table import Table

_SIGNAL = columns(
    ("signal", TEXT, "What is known of the answers: telemetry, tracks...; `telemetry+X` is both.", None, True),
    ("model", TEXT, "Kind of detector; null for a signal that is not there."),
)

DETECTIONS = Table(
    "detections",
    "One row per signal, model, control, group and score: how well labels of unseen prompts are told.",
    (RUN, ANALYSIS)
    + columns(("label", TEXT, "What is told apart: a column of `sequences`, `column=value`, or labels.", None, True))
    + _SIGNAL
    + columns(
        ("control", TEXT, "What makes the row a control: labels shuffled, decoder permuted, no association..."),
        ("within", TEXT, "Only sequences of this value, as `level=value`; null for all."),
        (
            "score",
            TEXT,
            "auroc, within_prompt_auroc (pairs of one prompt), auprc, brier, ece, risk_area (mean risk over "
            "coverages), risk_area_gain (below random abstention), coverage_at_5_risk.",
            None,
            True,
        ),
        ("n", I64, "Sequences.", "sequences"),
        ("n_prompts", I64, "Prompts they belong to.", "prompts"),
        ("value", F64, "The score, averaged over repeats."),
        ("ci_low", F64, "Lower end of its 95 % interval, from prompts drawn with replacement."),
        ("ci_high", F64, "Upper end of that interval."),
        ("gain", F64, "The same score of telemetry and the signal together, less that of telemetry alone."),
        ("gain_low", F64, "Lower end of its 95 % interval, from the same draws (paired)."),
        ("gain_high", F64, "Upper end of that interval."),
        ("p_holm", F64, "Two-sided p-value of the gain from these draws, after Holm over signals.", "probability"),
        ("sentence", TEXT, "What the interval of the gain says."),
        ("reason", TEXT, "Why a value is null, or what to know of it."),
    ),
    key=("run_id", "analysis_id", "signal", "model", "control", "within", "score"),
    kind="derived",
)

DETECTION_SCORES = Table(
    "detection_scores",
    "One row per sequence, signal, model and repeat: what a detector said that had not seen the prompt.",
    (RUN, SEQUENCE, ANALYSIS)
    + _SIGNAL
    + columns(
        ("repeat", I32, "Which of the repeated divisions into folds; null where a stored detector was applied."),
        ("fold", I32, "Fold of the sequence in that division; null where a stored detector was applied."),
        ("score", F64, "Probability that the label is true.", "probability", True),
        ("label", BOOL, "The label; null if it is not known."),
    ),
    key=("run_id", "sequence_id", "analysis_id", "signal", "model", "repeat"),
    kind="derived",
)

DETECTION_CURVES = Table(
    "detection_curves",
    "One row per point of a curve: ROC (41 false positive rates) or calibration (ten bins of the probability).",
    (RUN, ANALYSIS)
    + _SIGNAL
    + columns(
        ("curve", TEXT, "roc or calibration.", None, True),
        ("place", I32, "Place along the curve, from 0.", None, True),
        ("x", F64, "Share of false labels above the score; or mean probability of the bin.", "probability", True),
        ("y", F64, "Share of true labels above the score; or share of true labels in the bin.", "probability"),
        ("low", F64, "Lower end of a 95 % interval, from prompts drawn with replacement.", "probability"),
        ("high", F64, "Upper end of that interval.", "probability"),
        ("n", I64, "Sequences of the curve, or of the bin (mean over repeats).", "sequences"),
    ),
    key=("run_id", "analysis_id", "signal", "model", "curve", "place"),
    kind="derived",
)

DETECTION_IMPORTANCES = Table(
    "detection_importances",
    "One row per column of a signal: what the AUROC loses when it is permuted among the held-out sequences.",
    (RUN, ANALYSIS)
    + _SIGNAL
    + columns(
        ("column", TEXT, "The column.", None, True),
        ("value", F64, "AUROC lost.", "probability"),
        ("ci_low", F64, "Lower end of its 95 % interval.", "probability"),
        ("ci_high", F64, "Upper end of that interval.", "probability"),
    ),
    key=("run_id", "analysis_id", "signal", "model", "column"),
    kind="derived",
)

RISK_COVERAGE = Table(
    "risk_coverage",
    "One row per signal, model and coverage: the risk if only the surest answers are given.",
    (RUN, ANALYSIS)
    + _SIGNAL
    + columns(
        ("place", I32, "Place along the curve, from 0.", None, True),
        ("coverage", F64, "Share of the answers that are given, the surest first.", "probability", True),
        ("risk", F64, "Share of false labels among them.", "probability"),
        ("threshold", F64, "Score from which is answered.", "probability"),
    ),
    key=("run_id", "analysis_id", "signal", "model", "place"),
    kind="derived",
)

DETECTORS = Table(
    "detectors",
    "One row per signal and model: the detector fitted to all labelled sequences of the run.",
    (RUN, ANALYSIS)
    + _SIGNAL
    + columns(
        ("block", TEXT, "The block of columns that was chosen: a layer, say.", None, True),
        (
            "description",
            TEXT,
            "Kind, columns, shapes, choices, as JSON; numbers are in detector_terms.",
            None,
            True,
        ),
    ),
    key=("run_id", "analysis_id", "signal", "model"),
    kind="derived",
)

DETECTOR_TERMS = Table(
    "detector_terms",
    "One row per number of a detector: a coefficient, a mean, a node of a tree.",
    (RUN, ANALYSIS)
    + _SIGNAL
    + columns(
        (
            "part",
            TEXT,
            "coefficient, intercept, mean, scale, fill, feature, threshold, left, value...",
            None,
            True,
        ),
        ("row", I32, "Place in the part: the column, or the node.", None, True),
        ("column", I32, "Second place in a matrix; else 0.", None, True),
        ("value", F64, "The number."),
    ),
    key=("run_id", "analysis_id", "signal", "model", "part", "row", "column"),
    kind="derived",
)
