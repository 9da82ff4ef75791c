"""The tables of ablations: what a model loses without a part of it, and whether predicted effects are measured ones."""

from ..key_columns import ANALYSIS, BOOL, F64, I32, I64, LAYER, RUN, SEQUENCE, TEXT, columns
from ..table import Table

_CONDITION = columns(
    ("site", TEXT, "Site that was ablated; null for the unedited model."),
    ("layer", I32, "Block that was ablated, 0 to L-1; null for the unedited model."),
    ("action", TEXT, "none (the unedited model), zero, or mean: the site's mean over the split named.", None, True),
    ("scope", TEXT, "Positions that were ablated: all, prompt, generated or last.", None, True),
)

ABLATED_PROBLEMS = Table(
    "ablated_problems",
    "One row per problem and condition: what the model loses on its reference solution, and whether it still answers.",
    (RUN, SEQUENCE, ANALYSIS)
    + _CONDITION
    + columns(
        ("n_tokens", I32, "Tokens of the reference solution, or answer, that were predicted.", "tokens"),
        ("loss", F64, "Mean cross-entropy of these tokens; null where the problem has neither.", "nats"),
        ("predicted_answer", TEXT, "Answer found in the greedy completion."),
        ("correct", BOOL, "Whether it equals the reference; null without one, or where nothing was generated."),
        ("n_generated_tokens", I32, "Tokens that were generated, the end token included.", "tokens"),
        ("reason", TEXT, "Why a value is null."),
    ),
    key=("run_id", "sequence_id", "analysis_id", "site", "layer", "action"),
    kind="derived",
)

_CHANGES = columns(
    ("loss_change", F64, "Loss less that of the unedited model, on the same tokens.", "nats"),
    ("loss_ci_low", F64, "Lower end of its 95 % interval, from problems drawn with replacement.", "nats"),
    ("loss_ci_high", F64, "Upper end of that interval.", "nats"),
)

LAYER_ABLATIONS = Table(
    "layer_ablations",
    "One row per ablated site and layer: loss on the reference solutions and greedy accuracy, against the unedited "
    "model on the same problems.",
    (RUN, ANALYSIS)
    + _CONDITION
    + columns(
        ("ablation_id", TEXT, "The analysis whose `ablated_problems` were read.", None, True),
        ("n_problems", I64, "Problems with a loss.", "problems"),
        ("n_tokens", I64, "Tokens that were predicted.", "tokens"),
        ("loss", F64, "Mean cross-entropy over all of these tokens.", "nats"),
    )
    + _CHANGES
    + columns(
        ("n_graded", I64, "Problems whose greedy completion was graded.", "problems"),
        ("accuracy", F64, "Share of them that are right.", "share"),
        ("accuracy_change", F64, "The same less that of the unedited model.", "share"),
        ("accuracy_ci_low", F64, "Lower end of its 95 % interval, from problems drawn with replacement.", "share"),
        ("accuracy_ci_high", F64, "Upper end of that interval.", "share"),
        ("reason", TEXT, "Why values are null."),
    ),
    key=("run_id", "analysis_id", "site", "layer", "action", "scope"),
    kind="derived",
)

NEURON_ABLATIONS = Table(
    "neuron_ablations",
    "One row per condition: how well the direction still tells right from wrong answers, and what the next token "
    "costs, once the effects of chosen neurons are taken away. Problems of the test split.",
    (RUN, ANALYSIS, LAYER)
    + columns(
        (
            "condition",
            TEXT,
            "unedited; all, significant, insignificant, rank1 (in the representation); zero, mean (real, by edits).",
            None,
            True,
        ),
        ("paths_id", TEXT, "The analysis whose `second_order_paths` were read.", None, True),
        ("n_neurons", I32, "Neurons of the layer that were ablated.", "neurons"),
        ("n_problems", I64, "Problems of the test split that have a label.", "problems"),
        ("accuracy", F64, "Share told right by the direction with the train split's threshold.", "share"),
        ("accuracy_change", F64, "The same less that of the unedited states.", "share"),
        ("accuracy_ci_low", F64, "Lower end of its 95 % interval, from problems drawn with replacement.", "share"),
        ("accuracy_ci_high", F64, "Upper end of that interval.", "share"),
        ("auroc", F64, "Share of pairs of a right and a wrong problem in the right order, ties half.", "probability"),
        ("auroc_change", F64, "The same less that of the unedited states.", "probability"),
        ("auroc_ci_low", F64, "Lower end of its 95 % interval.", "probability"),
        ("auroc_ci_high", F64, "Upper end of that interval.", "probability"),
        ("n_tokens", I64, "Problems at whose position T a stored token follows.", "tokens"),
        ("loss", F64, "Mean cross-entropy of that next token.", "nats"),
    )
    + _CHANGES
    + columns(("reason", TEXT, "Why values are null.")),
    key=("run_id", "analysis_id", "layer", "condition"),
    kind="derived",
)

EFFECT_VALIDATION = Table(
    "effect_validation",
    "One row per neuron: how far the projection on the direction falls when the neuron is removed from the model "
    "(output zero at every position), beside what its effects predict. Hundredths of the final state's length units.",
    (RUN, ANALYSIS, LAYER)
    + columns(
        ("neuron", I32, "Neuron index within the layer's MLP.", None, True),
        ("paths_id", TEXT, "The analysis whose chosen neurons were removed.", None, True),
        ("n_problems", I64, "Problems.", "problems"),
        ("predicted_second_order", F64, "Mean second-order effect."),
        ("predicted_direct", F64, "Mean direct effect: what the neuron writes onto the direction at T itself."),
        ("measured", F64, "Mean of the projection of the unedited model less that without the neuron."),
        ("ci_low", F64, "Lower end of its 95 % interval, from problems drawn with replacement."),
        ("ci_high", F64, "Upper end of that interval."),
        ("correlation_second_order", F64, "Pearson correlation over problems of second-order effect and measured."),
        ("correlation", F64, "The same for the sum of second-order and direct effect."),
        ("reason", TEXT, "Why values are null."),
    ),
    key=("run_id", "analysis_id", "layer", "neuron"),
    kind="derived",
)
