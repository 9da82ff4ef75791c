"""The tables of what was computed inside the model: states, their summaries, attention."""

from .key_columns import (
    DIM,
    DTYPE,
    F32,
    F32S,
    HEAD,
    I32,
    KIND,
    LAYER,
    POSITION,
    RUN,
    SEQUENCE,
    SITE,
    STACK,
    VECTOR,
    columns,
)
from .table import Table

LAYER_SUMMARIES = Table(
    "layer_summaries",
    "One row per token, layer and site: numbers about the state computed when the token at `position` was read.",
    (
        RUN,
        SEQUENCE,
        POSITION,
        LAYER,
        SITE,
        STACK,
        *columns(
            ("l2_norm", F32, "Euclidean norm of the state.", "model units"),
            ("mean", F32, "Mean over the elements of the state.", "model units"),
            ("std", F32, "Standard deviation over the elements (n-1).", "model units"),
            ("max_abs", F32, "Largest absolute element.", "model units"),
            ("n_nan", I32, "Elements that are NaN.", "elements"),
            ("n_inf", I32, "Elements that are infinite.", "elements"),
            (
                "cos_prev_layer",
                F32,
                "Cosine to the state one block below (see docs/glossary.md); null where there is none.",
            ),
            ("cos_prev_position", F32, "Cosine to the same site at the position before; null at a stack's first."),
            ("delta_norm", F32, "Norm of the difference to the state one block below.", "model units"),
            (
                "attn_entropy_bits_mean",
                F32,
                "Mean over heads of the self-attention entropy; on resid_post rows only.",
                "bits",
            ),
            ("attn_entropy_bits_min", F32, "Smallest self-attention entropy of a head.", "bits"),
            ("attn_entropy_bits_max", F32, "Largest self-attention entropy of a head.", "bits"),
            ("attn_max_weight_mean", F32, "Mean over heads of the largest attention weight.", "probability"),
            ("attn_max_weight_min", F32, "Smallest over heads of the largest attention weight.", "probability"),
            ("attn_max_weight_max", F32, "Largest attention weight of any head.", "probability"),
        ),
    ),
    key=("run_id", "sequence_id", "position", "layer", "site"),
)

HEAD_SUMMARIES = Table(
    "head_summaries",
    "One row per token, layer and attention head: where the head looked when the token at `position` was read.",
    (
        RUN,
        SEQUENCE,
        POSITION,
        LAYER,
        HEAD,
        KIND,
        STACK,
        *columns(
            ("n_keys", I32, "Keys the query may attend to: real tokens within the window.", "tokens"),
            ("entropy_bits", F32, "Entropy of the attention weights.", "bits"),
            ("max_weight", F32, "Largest attention weight.", "probability"),
            ("max_key", I32, "Position of the largest weight, lowest on ties.", "tokens"),
            (
                "basin_ratio",
                F32,
                "Prompt attention on the middle third over the rest; on the last prompt position (of an encoder) only.",
            ),
            (
                "basin_ratio_to_uniform",
                F32,
                "basin_ratio over that of uniform attention, causal or, in an encoder, over all tokens; same rows.",
            ),
        ),
    ),
    key=("run_id", "sequence_id", "position", "layer", "head", "kind"),
)

ATTENTION_EDGES = Table(
    "attention_edges",
    "One row per kept attention edge (over a threshold; capped per head and prompt, and per head and generated token);"
    " the query is `position`.",
    (
        RUN,
        SEQUENCE,
        POSITION,
        LAYER,
        HEAD,
        KIND,
        STACK,
        *columns(
            ("key", I32, "Position attended to.", "tokens"),
            ("weight", F32, "Attention weight.", "probability"),
        ),
    ),
    key=("run_id", "sequence_id", "position", "layer", "head", "kind", "key"),
)

ATTENTION_PATTERNS = Table(
    "attention_patterns",
    "One row per token and chosen head: all its attention weights; the query is `position`.",
    (
        RUN,
        SEQUENCE,
        POSITION,
        LAYER,
        HEAD,
        KIND,
        STACK,
        *columns(
            ("first_key", I32, "Position that the first of `weights` is given to; keys before it get none.", "tokens"),
            ("weights", F32S, "Weight given to the key at first_key + i; null if one is NaN.", "probability"),
        ),
    ),
    key=("run_id", "sequence_id", "position", "layer", "head", "kind"),
)

ACTIVATIONS = Table(
    "activations",
    "One row per token, layer and site: the state itself; the view decodes `vector` to FLOAT[].",
    (RUN, SEQUENCE, POSITION, LAYER, SITE, STACK, DTYPE, DIM)
    + columns(
        ("scale", F32, "Factor that turns int8 elements into values; null for the other formats."),
        ("vector", VECTOR, "The state: dim x width bytes, little-endian (FLOAT[] in the view).", "model units", True),
    ),
    key=("run_id", "sequence_id", "position", "layer", "site"),
    partitions=("layer", "site"),
    row_group_rows=8_192,
    compressed=False,
    vector="vector",
)
