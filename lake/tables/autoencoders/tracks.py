"""The tables of tracks: features followed through the layers, how tracks diverge, and what their course predicts."""

from ..key_columns import ANALYSIS, F32, F64, I32, RUN, SEQUENCE, TEXT, columns
from ..table import Table

_TRACK_POSITION = columns(
    ("position", I32, "Token whose features are followed; null where they are pooled over the sequence.", "tokens"),
)
_TRACK = columns(("track", I32, "Number of the track in its token or sequence, by birth, from 0.", None, True))

FEATURE_LINKS = Table(
    "feature_links",
    "One row per feature and near feature of the next layer, by the cosine of their decoder rows.",
    (RUN, ANALYSIS)
    + columns(
        ("sae_id", TEXT, "Autoencoder of the feature.", None, True),
        ("feature", I32, "Index of the feature in its dictionary.", None, True),
        ("next_sae_id", TEXT, "Autoencoder of the next layer.", None, True),
        ("next_feature", I32, "Index of its feature.", None, True),
        ("cosine", F64, "Cosine of both decoder rows."),
        ("place", I32, "Place among the features of the next layer, 0 the nearest.", None, True),
    ),
    key=("run_id", "analysis_id", "sae_id", "feature", "place"),
    kind="derived",
)

TRACKS = Table(
    "tracks",
    "One row per track: a feature followed through the layers, of one token or pooled over a sequence.",
    (RUN, SEQUENCE)
    + _TRACK_POSITION
    + (ANALYSIS,)
    + _TRACK
    + columns(
        ("birth_layer", I32, "Layer of its first feature.", None, True),
        ("death_layer", I32, "Layer of its last feature; null if it lives at the last tracked layer."),
        ("n_layers", I32, "Layers in which it has a feature.", "layers"),
        ("max", F32, "Largest activation, divided by the feature's mean unless --scale none."),
        ("mean", F32, "Mean activation over the layers in which it has a feature."),
        ("final", F32, "Activation of its last feature."),
    ),
    key=("run_id", "sequence_id", "position", "analysis_id", "track"),
    kind="derived",
)

TRACK_POINTS = Table(
    "track_points",
    "One row per feature of a track.",
    (RUN, SEQUENCE)
    + _TRACK_POSITION
    + (ANALYSIS,)
    + _TRACK
    + columns(
        ("layer", I32, "Block of the feature, 0 to L-1.", None, True),
        ("feature", I32, "Index of the feature in the dictionary of that layer.", None, True),
        ("activation", F32, "Its activation, divided by the feature's mean unless --scale none."),
        ("cost", F32, "What the match with the layer before cost; null where the track begins."),
    ),
    key=("run_id", "sequence_id", "position", "analysis_id", "track", "layer"),
    kind="derived",
)

_NUMBERS = (
    ("entropy_mean", "Mean over layers of the entropy of the tracks' activations.", "bits"),
    ("entropy_max", "Largest of these entropies.", "bits"),
    ("entropy_std", "Their standard deviation (population).", "bits"),
    ("entropy_final", "Entropy in the last layer.", "bits"),
    ("total_births", "Tracks that began.", "tracks"),
    ("total_deaths", "Tracks that ended before the last layer.", "tracks"),
    ("birth_rate", "Births per layer.", "tracks"),
    ("death_rate", "Deaths per layer.", "tracks"),
    ("churn_ratio", "(births + deaths) / (2 x layers).", "tracks"),
    ("survival_rate", "Share of the tracks that live at the last layer.", "probability"),
    ("competition_mean", "Mean over layers of the tracks with an activation above 0.5.", "tracks"),
    ("competition_max", "Largest of these numbers.", "tracks"),
    ("competition_std", "Their standard deviation (population).", "tracks"),
    ("competition_final", "That number in the last layer.", "tracks"),
    ("high_competition_ratio", "Share of layers with more than two such tracks.", "probability"),
    ("stability_mean", "Mean over tracks of two layers and more of 1 / (1 + variance of activation); 0 if none.", None),
    ("stability_min", "Smallest of these; 0 if there is no such track.", None),
    ("low_stability_ratio", "Share of them below 0.5; 0 if there is no such track.", "probability"),
    ("dominance_mean", "Mean over layers of the largest activation over the sum of all.", "probability"),
    ("dominance_min", "Smallest of these.", "probability"),
    ("dominance_final", "That of the last layer.", "probability"),
    ("low_dominance_ratio", "Share of layers below 0.5.", "probability"),
    ("density_mean", "Mean over layers of the tracks alive.", "tracks"),
    ("density_max", "Largest of these numbers.", "tracks"),
    ("density_std", "Their standard deviation (population).", "tracks"),
    ("max_concurrent_tracks", "Most tracks alive in one layer (the source has it twice).", "tracks"),
    ("error_mean", "Mean over layers of the squared reconstruction error of the (last) token, per dimension.", None),
    ("error_std", "Standard deviation (population) of these.", None),
    ("error_max", "Largest of these.", None),
    ("error_min", "Smallest of these.", None),
    ("error_final", "That of the last layer.", None),
    ("error_growth", "Last less first layer.", None),
    ("error_max_layer", "Layer of the largest.", None),
    ("error_late_ratio", "Mean of the last six layers over that of the first six; null for fewer than 12.", None),
)

TRACK_METRICS = Table(
    "track_metrics",
    "One row per token or sequence whose tracks were followed, and of tokens three per sequence: how tracks diverge.",
    (RUN, SEQUENCE)
    + _TRACK_POSITION
    + (ANALYSIS,)
    + columns(
        ("over", TEXT, "mean, max or last: over the tokens of the sequence; null for the unit's own numbers."),
        *((name, F64, doc, unit) for name, doc, unit in _NUMBERS),
        ("reason", TEXT, "Why a value is null."),
    ),
    key=("run_id", "sequence_id", "position", "analysis_id", "over"),
    kind="derived",
)
