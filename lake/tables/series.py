"""The table of what the health verdicts need of a sequence: series of its generated tokens, without thresholds."""

from .key_columns import BOOL, F32S, F64, F64S, I32, I32S, RUN, SEQUENCE, columns
from .table import Table

MIN_KEYS = 2
"""Keys that a head needs to be judged: with one its entropy is 0 for everyone."""
COLLAPSED_NATS, COLLAPSED_NORMALISED = 0.1, 0.03
FOCUSED_WEIGHTS = (0.85, 0.88, 0.9)
"""The cuts by which heads are counted when they are written; by others they are counted again."""

GENERATION_SERIES = Table(
    "generation_series",
    "One row per sequence that was collected: its generated tokens as lists, in their order, from which the health "
    "views judge. Computed from the other tables of its segment when it is sealed; where it is missing (imports, "
    "older runs), the views compute the same. A list is empty where the run did not keep what it needs.",
    (
        RUN,
        SEQUENCE,
        *columns(
            ("n_steps", I32, "Generated tokens that the model chose.", "tokens", True),
            ("has_nan", BOOL, "Whether any state, prompt included, has a NaN element; null if none is known."),
            ("has_inf", BOOL, "Whether any state, prompt included, has an infinite element; null if none is known."),
            ("has_states", BOOL, "Whether the final-normed state that led to one of the tokens was kept."),
            ("positions", I32S, "Positions of the tokens.", "tokens"),
            ("entropies", F32S, "Finite entropies of the raw distributions.", "bits"),
            ("margins", F32S, "Finite margins.", "probability"),
            ("surprisals", F32S, "Finite surprisals.", "bits"),
            ("masses", F32S, "Finite masses of the ten best tokens.", "probability"),
            ("entropy_slope", F64, "Least-squares slope of the entropy over steps.", "bits per step"),
            ("margin_slope", F64, "Least-squares slope of the margin over steps.", "probability per step"),
            ("surprisal_slope", F64, "Least-squares slope of the surprisal over steps.", "bits per step"),
            ("entropy_margin_correlation", F64, "Pearson correlation of entropy and margin; null without variation."),
            (
                "state_cosines",
                F32S,
                "Cosine of the final-normed state that led to the token to the one before; or null.",
            ),
            ("early_medians", F64S, "Median finite norm of the first third of the layers; or null.", "model units"),
            ("early_means", F64S, "Mean finite norm of the first third of the layers; or null.", "model units"),
            ("mid_norms", F32S, "Largest norm of the middle third of the layers; or null.", "model units"),
            ("mid_damaged", I32S, "Middle layers that have NaN or infinite elements; null if none was kept.", "layers"),
            ("mean_basin_ratio", F64, "Mean basin ratio over the heads that read the prompt."),
            ("n_heads", I32S, "Heads with enough keys to be judged, over all layers; null if none was kept.", "heads"),
            ("n_collapsed_bits", I32S, "Of these, heads with an entropy below `collapsed_bits`.", "heads"),
            ("n_collapsed_normalised", I32S, "Of these, heads below `collapsed_normalised`.", "heads"),
            ("focused_weights", F64S, "Cuts for `focused_rates`.", "probability"),
            ("focused_rates", F64S, "Per cut: mean over steps of the share of heads with a larger weight."),
            ("min_keys", I32, "Keys that a head needs to be judged.", "tokens"),
            ("collapsed_bits", F64, "A head is collapsed below this entropy (0.1 nats).", "bits"),
            ("collapsed_normalised", F64, "A head is collapsed below this entropy over log2 of its number of keys."),
        ),
    ),
    key=("run_id", "sequence_id"),
)
