"""The tables of sparse autoencoders."""

from .key_columns import F32, I32, LAYER, POSITION, RUN, SEQUENCE, SITE, TEXT, columns
from .table import Table

SAE_FEATURES = Table(
    "sae_features",
    "One row per active sparse-autoencoder feature of a token.",
    (RUN, SEQUENCE, POSITION)
    + columns(("sae_id", TEXT, "The sparse autoencoder.", None, True))
    + (LAYER, SITE)
    + columns(
        ("feature", I32, "Index of the feature in the dictionary.", None, True),
        ("activation", F32, "Activation of the feature.", "model units"),
    ),
    key=("run_id", "sequence_id", "position", "sae_id", "feature"),
)
