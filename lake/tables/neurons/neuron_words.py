"""The tables of single neurons' effect vectors: their paths, their first component, the words that they write."""

from ..key_columns import ANALYSIS, DIM, DTYPE, F64, I32, I64, LAYER, RUN, SEQUENCE, TEXT, VECTOR, columns
from ..table import Table

_NEURON = columns(("neuron", I32, "Neuron index within the layer's MLP.", None, True))

SECOND_ORDER_PATHS = Table(
    "second_order_paths",
    "One row per sequence and chosen neuron: how much of the neuron's activation each head of a later layer carries "
    "to position T. With what the neuron writes through each head this is its effect vector.",
    (RUN, SEQUENCE, ANALYSIS, LAYER)
    + _NEURON
    + columns(
        ("position", I32, "The position T whose final state is looked at.", "tokens"),
        ("factor", F64, "What the vector is multiplied by to be in the units of the scores."),
    )
    + (DTYPE, DIM)
    + columns(
        ("vector", VECTOR, "Sum over tokens of B(k,h,i) p(i,n), by path (FLOAT[] in the view).", None, True),
    ),
    key=("run_id", "sequence_id", "analysis_id", "layer", "neuron"),
    kind="derived",
    row_group_rows=8_192,
    compressed=False,
    vector="vector",
)  # fmt: skip

NEURON_COMPONENTS = Table(
    "neuron_components",
    "One row per chosen neuron: the first principal component of its effect vectors, fitted on the train split.",
    (RUN, ANALYSIS, LAYER)
    + _NEURON
    + columns(
        ("paths_id", TEXT, "The analysis whose `second_order_paths` were read.", None, True),
        ("n", I64, "Problems of the train split.", "problems"),
        ("top_k", I32, "Effects that were used: those farthest from the neuron's mean.", "problems"),
        ("smallest_norm", F64, "Distance from the mean of the nearest of these: farther ones are significant."),
        ("share", F64, "Share of the sum of squares of these that the component holds.", "share"),
        ("share_test", F64, "The same of the test split's significant effects, about the train split's mean.", "share"),
        ("n_significant_test", I64, "Problems of the test split whose effect is significant.", "problems"),
        ("n_test", I64, "Problems of the test split.", "problems"),
        ("onto_direction", F64, "Cosine of the component and the direction."),
        ("reason", TEXT, "Why values are null."),
    )
    + (DTYPE, DIM)
    + columns(("vector", VECTOR, "The component, at length 1 (FLOAT[] in the view).", None, True)),
    key=("run_id", "analysis_id", "layer", "neuron"),
    kind="derived",
    row_group_rows=8_192,
    compressed=False,
    vector="vector",
)  # fmt: skip

NEURON_WORDS = Table(
    "neuron_words",
    "One row per chosen neuron and word: its first component as a sparse sum of words, in the order they were found.",
    (RUN, ANALYSIS, LAYER)
    + _NEURON
    + columns(
        ("place", I32, "0-based order in which the word was taken.", None, True),
        ("components_id", TEXT, "The analysis whose `neuron_components` were read.", None, True),
        ("token_id", I32, "Vocabulary id; null for words of a lexicon."),
        ("word", TEXT, "The token for display, or the word of the lexicon."),
        ("coefficient", F64, "Of the word's unit-length, mean-centred vector, once all words are taken."),
        ("explained", F64, "Share of the component's square that the words up to this one explain.", "share"),
    ),
    key=("run_id", "analysis_id", "layer", "neuron", "place"),
    kind="derived",
)
