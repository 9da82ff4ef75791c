"""The tables of neurons: which matter, and what they do to a direction of the final state through later heads."""

from ..key_columns import (
    ANALYSIS,
    DIM,
    DTYPE,
    F64,
    I16,
    I32,
    I64,
    LAYER,
    POSITION,
    RUN,
    SEQUENCE,
    TEXT,
    VECTOR,
    columns,
)
from ..table import Table

_NEURON = columns(("neuron", I32, "Neuron index within the layer's MLP.", None, True))

NEURON_RANKS = Table(
    "neuron_ranks",
    "One row per neuron: how strongly it acts at the last prompt token, over the prompts of a run.",
    (RUN, ANALYSIS, LAYER)
    + _NEURON
    + columns(
        ("mean_abs", F64, "Mean over prompts of the absolute activation (mlp_post) at the last prompt token."),
        ("variance", F64, "Variance over prompts (n-1) of that activation; null with fewer than two prompts."),
        ("direct_effect", F64, "mean_abs times the length of what the neuron writes to the residual stream."),
        ("score", F64, "Sum of the three, each over its largest value in the layer."),
        ("rank", I32, "0-based place in the layer by falling score.", None, True),
        ("n_prompts", I64, "Prompts that were read.", "prompts"),
        ("reason", TEXT, "Why values are null."),
    ),
    key=("run_id", "analysis_id", "layer", "neuron"),
    kind="derived",
)

SECOND_ORDER_SCORES = Table(
    "second_order_scores",
    "One row per sequence, layer and kind of effect: what every neuron of the layer adds to a direction of the final "
    "state, in hundredths of its length units.",
    (RUN, SEQUENCE, ANALYSIS, LAYER)
    + columns(
        (
            "effect",
            TEXT,
            "`second_order` (through the attention heads of later layers) or `direct` (written at the same position).",
            None,
            True,
        ),
        ("position", I32, "The position T whose final state is looked at.", "tokens"),
        (
            "scaling",
            TEXT,
            "`plain`; `state`: over the final state's length; `clip`: that, with means and biases spread.",
        ),
        ("total", F64, "Sum over all neurons of the layer."),
    )
    + (DTYPE, DIM)
    + columns(("vector", VECTOR, "The effects by neuron (FLOAT[] in the view).", None, True)),
    key=("run_id", "sequence_id", "analysis_id", "layer", "effect"),
    kind="derived",
    row_group_rows=8_192,
    compressed=False,
    vector="vector",
)

SECOND_ORDER_HEADS = Table(
    "second_order_heads",
    "One row per neuron and attention head of a later layer: how much of the neuron's second-order effect passes it.",
    (RUN, ANALYSIS)
    + columns(("layer_from", I32, "Layer of the neuron.", None, True))
    + _NEURON
    + columns(
        ("layer_to", I32, "Layer of the head.", None, True),
        ("head", I16, "Head within that layer.", None, True),
        ("mean", F64, "Mean over sequences of the effect through this head."),
        ("mean_abs", F64, "Mean over sequences of its absolute value."),
        ("n_sequences", I64, "Sequences that were read.", "sequences"),
    ),
    key=("run_id", "analysis_id", "layer_from", "neuron", "layer_to", "head"),
    kind="derived",
)

SECOND_ORDER_TOKENS = Table(
    "second_order_tokens",
    "One row per token and layer: the second-order effect of all neurons of the layer at that token together.",
    (RUN, SEQUENCE, POSITION, ANALYSIS, LAYER)
    + columns(("score", F64, "Sum over the layer's neurons; all tokens together give `total` of the scores.")),
    key=("run_id", "sequence_id", "position", "analysis_id", "layer"),
    kind="derived",
)

NEURON_EFFECTS = Table(
    "neuron_effects",
    "One row per neuron: its second-order effect over the sequences of a run, and how it differs with correctness.",
    (RUN, ANALYSIS, LAYER)
    + _NEURON
    + columns(
        ("scores_id", TEXT, "The analysis whose `second_order_scores` were read.", None, True),
        ("n_sequences", I64, "Sequences.", "sequences"),
        ("mean", F64, "Mean effect."),
        ("sd", F64, "Standard deviation of the effect (n-1)."),
        ("mean_abs", F64, "Mean absolute effect."),
        (
            "share_significant",
            F64,
            "Share of sequences in which the effect is more than two root mean squares of the layer from its own mean.",
            "share",
        ),
        ("n_right", I64, "Sequences that are right.", "sequences"),
        ("n_wrong", I64, "Sequences that are wrong.", "sequences"),
        ("mean_right", F64, "Mean effect in sequences that are right."),
        ("mean_wrong", F64, "Mean effect in those that are wrong."),
        ("difference", F64, "mean_right - mean_wrong."),
        ("ci_low", F64, "Lower end of its 95 % interval, from prompts drawn with replacement."),
        ("ci_high", F64, "Upper end of that interval."),
        ("p_value", F64, "Two-sided p-value of Welch's test on the means of prompts.", "probability"),
        ("p_holm", F64, "The same, corrected by Holm for all neurons of the analysis.", "probability"),
        ("direct_effect", F64, "Mean of the direct effect: what the neuron writes onto the direction at T itself."),
        ("reason", TEXT, "Why values are null."),
    ),
    key=("run_id", "analysis_id", "layer", "neuron"),
    kind="derived",
)
