"""The tables of sparse autoencoders: what was trained, how it went, how good it is, what its features do."""

from ..key_columns import (
    ANALYSIS,
    BOOL,
    F32,
    F64,
    I32,
    I64,
    I64S,
    LAYER,
    POSITION,
    RUN,
    SEQUENCE,
    SITE,
    TEXT,
    TEXTS,
    columns,
)
from ..table import Table

_SAE = columns(("sae_id", TEXT, "The sparse autoencoder.", None, True))
_FEATURE = columns(("feature", I32, "Index of the feature in the dictionary.", None, True))

SAES = Table(
    "saes",
    "One row per sparse autoencoder: trained by a run of kind sae, or imported. Its weights are blobs of the run.",
    (RUN,)
    + _SAE
    + columns(
        (
            "arch",
            TEXT,
            "Architecture: relu, threshold-relu, topk, batchtopk, matryoshka, jumprelu or gated.",
            None,
            True,
        ),
        ("layer", I32, "Block that it reads, 0 to L-1."),
        ("site", TEXT, "Site that it reads."),
        ("to_layer", I32, "Block that a transcoder writes to; null for an autoencoder."),
        ("to_site", TEXT, "Site that a transcoder writes to; null for an autoencoder."),
        ("d_in", I32, "Width of what it reads.", "elements", True),
        ("d_out", I32, "Width of what it writes.", "elements", True),
        ("d_sae", I32, "Number of features.", "features", True),
        ("k", I32, "Active features per token of the architectures that fix them.", "features"),
        ("scale", F64, "Factor that the vectors were multiplied by in training; folded into the weights."),
        ("n_tokens", I64, "Rows it was trained on, repeats counted.", "tokens"),
        ("seed", I64, "Seed of its first weights."),
        ("source", TEXT, "`trained`, or the format it was imported from."),
        ("weights_sha256", TEXT, "SHA-256 of sae_weights.safetensors."),
        ("snapshot", TEXT, "Digest of the commits that it was trained on."),
        ("config", TEXT, "Everything else it was made with, as JSON."),
    ),
    key=("run_id", "sae_id"),
)

SAE_TRAINING = Table(
    "sae_training",
    "One row per stretch of steps of a training: means over the stretch that ends with `step`, in scaled units.",
    (RUN,)
    + _SAE
    + columns(
        ("step", I32, "Steps made so far.", "steps", True),
        ("n_tokens", I64, "Rows trained on so far.", "tokens"),
        ("loss", F32, "What is minimised."),
        ("mse", F32, "Mean over rows of the squared error summed over dimensions."),
        ("term", F32, "The penalty of the architecture, weighted."),
        ("aux", F32, "The AuxK term, weighted."),
        ("fvu", F32, "Fraction of variance unexplained, against the mean of the stretch."),
        ("l0", F32, "Active features per row.", "features"),
        ("dead", I32, "Features silent for longer than --dead-after, at the end of the stretch.", "features"),
        ("lr", F32, "Learning rate of the last step."),
        ("validation_fvu", F32, "FVU on validation rows; on the last row of a commit only."),
        ("tokens_per_s", F32, "Rows per second of the stretch, all autoencoders trained together.", "tokens/s"),
        ("wait_share", F32, "Share of that time spent waiting for vectors."),
    ),
    key=("run_id", "sae_id", "step"),
)

SAE_EVALUATIONS = Table(
    "sae_evaluations",
    "One row per autoencoder and split that was evaluated: sums, from which the view sae_metrics computes the metrics.",
    (RUN, ANALYSIS)
    + _SAE
    + columns(
        ("split", TEXT, "Split of the sequences; `all` if none was chosen.", None, True),
        ("n", I64, "Rows that were reconstructed.", "tokens", True),
        ("d_sae", I32, "Number of features.", "features"),
        ("sum_x_sq", F64, "Sum of |x|^2, x being the vector to be reconstructed."),
        ("sq_of_sum_x", F64, "|sum of x|^2, for the variance about the mean."),
        ("sum_error_sq", F64, "Sum of |x - x'|^2."),
        ("sum_reconstruction_sq", F64, "Sum of |x'|^2."),
        ("sum_inner", F64, "Sum of the inner products of x and x'."),
        ("sum_cosine", F64, "Sum of the cosines of x and x'."),
        ("sum_norm_ratio", F64, "Sum of |x'| / |x|."),
        ("n_ratio", I64, "Rows with |x| and |x'| above 0: those of the two sums before.", "tokens"),
        ("sum_l0", I64, "Active features, summed over rows.", "features"),
        ("sum_l1", F64, "Activations, summed over rows and features."),
        ("n_dead", I32, "Features that were active on no row.", "features"),
        ("n_dense", I32, "Features that were active on more than 10 % of the rows.", "features"),
        ("density_histogram", I64S, "Features by density: dead, below 1e-6, then ten bins per factor of 10 up to 1."),
        ("n_ce", I64, "Tokens whose prediction was compared; null if no model ran.", "tokens"),
        ("sum_ce_clean", F64, "Cross-entropy of the model as it is, summed.", "nats"),
        ("sum_ce_reconstruction", F64, "Cross-entropy with the site replaced by its reconstruction, summed.", "nats"),
        ("sum_ce_zero", F64, "Cross-entropy with the site set to 0, summed.", "nats"),
        ("sum_ce_mean", F64, "Cross-entropy with the site set to its mean, summed.", "nats"),
        ("sum_kl_reconstruction", F64, "KL(clean || with the reconstruction), summed.", "nats"),
        ("sum_kl_zero", F64, "KL(clean || with zero), summed.", "nats"),
        ("sum_kl_mean", F64, "KL(clean || with the mean), summed.", "nats"),
        ("reason", TEXT, "Why the cross-entropies are null."),
    ),
    key=("run_id", "analysis_id", "sae_id", "split"),
    kind="derived",
)

SAE_FEATURES = Table(
    "sae_features",
    "One row per active sparse-autoencoder feature of a token.",
    (RUN, SEQUENCE, POSITION)
    + _SAE
    + (LAYER, SITE)
    + _FEATURE
    + columns(("activation", F32, "Activation of the feature.", "model units")),
    key=("run_id", "sequence_id", "position", "sae_id", "feature"),
)

FEATURE_ACTIVATIONS = Table(
    "feature_activations",
    "The rows of sae_features in the order of features: one feature's tokens lie together.",
    (RUN, ANALYSIS)
    + _SAE
    + _FEATURE
    + (SEQUENCE, POSITION)
    + columns(("activation", F32, "Activation of the feature.", "model units")),
    key=("run_id", "analysis_id", "sae_id", "feature", "sequence_id", "position"),
    kind="derived",
    partitions=("sae_id",),
    row_group_rows=16_384,
)

FEATURE_STATS = Table(
    "feature_stats",
    "One row per feature of an autoencoder, dead ones included: how it was active on a run, and what predicts it.",
    (RUN, ANALYSIS)
    + _SAE
    + _FEATURE
    + columns(
        ("n_active", I64, "Tokens on which it was active.", "tokens"),
        ("n_sequences", I64, "Sequences in which it was active.", "sequences"),
        ("sum", F64, "Sum of its activations.", "model units"),
        ("sum_sq", F64, "Sum of their squares."),
        ("max", F32, "Largest activation; null if it was never active.", "model units"),
        ("q50", F32, "Median of its activations.", "model units"),
        ("q90", F32, "0.9 quantile of its activations.", "model units"),
        ("q99", F32, "0.99 quantile of its activations.", "model units"),
        ("top_tokens", TEXTS, "Tokens on which it was active most often, most frequent first."),
        ("top_token_counts", I64S, "How often, in the same order.", "tokens"),
        ("top_logits", TEXTS, "Tokens that its decoder row raises most through the unembedding; null without a model."),
        ("bottom_logits", TEXTS, "Tokens that it lowers most; null without a model."),
        ("max_cos_other", F32, "Largest cosine of its decoder row with another feature's."),
        ("encoder_decoder_cos", F32, "Cosine of its encoder column and its decoder row; null for other widths."),
        ("label", TEXT, "The rule that predicts it best: a token, the token before, or both; null if none does."),
        ("precision", F64, "Share of the held-out tokens that the rule names on which it was active."),
        ("recall", F64, "Share of the held-out tokens with the feature that the rule names."),
        ("reason", TEXT, "Why a value is null."),
    ),
    key=("run_id", "analysis_id", "sae_id", "feature"),
    kind="derived",
)

FEATURE_EXAMPLES = Table(
    "feature_examples",
    "One row per example of a feature: the token with the text around it.",
    (RUN, ANALYSIS)
    + _SAE
    + _FEATURE
    + columns(
        ("kind", TEXT, "`top`, `quantile`, or `silent` (a token on which it is not active).", None, True),
        ("quantile", I32, "Tenth of its activations, 0 the weakest; -1 for the other kinds.", None, True),
        ("place", I32, "Place among the examples of this kind and tenth, from 0.", None, True),
    )
    + (SEQUENCE, POSITION)
    + columns(
        ("activation", F32, "Activation at the token; 0 for silent ones.", "model units"),
        ("text", TEXT, "Text around the token."),
        ("peak_start", I32, "Where the token begins in the text.", "characters"),
        ("peak_end", I32, "Where it ends.", "characters"),
    ),
    key=("run_id", "analysis_id", "sae_id", "feature", "kind", "quantile", "place"),
    kind="derived",
)

FEATURE_JUDGEMENTS = Table(
    "feature_judgements",
    "One row per feature and question to a judge: a label, or how well the judge does with that label. 0.5 is chance.",
    (RUN, ANALYSIS)
    + _SAE
    + _FEATURE
    + columns(
        ("kind", TEXT, "`label`; `detection` (passages with it) or `fuzzing` (its tokens marked).", None, True),
        ("judge", TEXT, "Name of the model that was asked.", None, True),
        ("template", TEXT, "First 12 hex digits of SHA-256 over the instructions."),
        ("label", TEXT, "The label that was given, or that was tested; null where there is none."),
        ("reply", TEXT, "The label, the numbers of the passages named, or the reply where it cannot be read."),
        ("n_right", I32, "Held-out passages that it is right to name.", "passages"),
        ("n_wrong", I32, "Held-out passages that it is wrong to name.", "passages"),
        ("sensitivity", F64, "Share of the right ones that were named."),
        ("specificity", F64, "Share of the wrong ones that were not."),
        ("balanced_accuracy", F64, "Mean of both."),
        ("content", TEXT, "Hash of judge and call: equal calls are made once; null where nothing was asked."),
        ("prompt_tokens", I64, "Tokens read, as the service counts.", "tokens"),
        ("completion_tokens", I64, "Tokens written, as the service counts.", "tokens"),
        ("cost_usd", F64, "Cost of all attempts; null if unknown.", "USD"),
        ("latency_ms", F64, "Wall time of all attempts.", "ms"),
        ("attempts", I32, "Requests made.", "calls"),
        ("cached", BOOL, "Whether an earlier reply was reused."),
        ("reason", TEXT, "Why there is no label or score."),
    ),
    key=("run_id", "analysis_id", "sae_id", "feature", "kind", "judge"),
    kind="derived",
)
