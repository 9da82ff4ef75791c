"""The tables of a lake, as data: name, Arrow type, unit and one sentence for every column.

Docs, empty views, DuckDB comments and the writer's checks all derive from `TABLES`. Knows nothing of files.
"""

from collections.abc import Iterable

from .derived_tables import DERIVED_TABLES
from .key_columns import (
    BOOL,
    DIM,
    DTYPE,
    F32,
    F32S,
    F64,
    HEAD,
    I32,
    I32S,
    I64,
    KIND,
    LAYER,
    POSITION,
    RUN,
    SEQUENCE,
    SITE,
    STACK,
    TEXT,
    TIME,
    VECTOR,
)  # fmt: skip
from .key_columns import columns as _columns
from .table import Table

SCHEMA_VERSION = 1

RUNS = Table(
    "runs",
    "One row per run, derived from run.json, the commit records and the lock; never written.",
    (
        RUN,
        *_columns(
            ("tag", TEXT, "The user's label for the run."),
            ("kind", TEXT, "generate, read, experiment or import."),
            ("status", TEXT, "running, complete, interrupted, failed or removed."),
            ("created_at", TIME, "When the run was started.", "UTC"),
            ("finished_at", TIME, "When its completion was recorded; null before.", "UTC"),
            ("model", TEXT, "Model as given: Hugging Face id, folder or `tinymath`."),
            ("model_revision", TEXT, "Resolved revision of the model repository, if it has one."),
            ("weights_sha256", TEXT, "SHA-256 over a local folder's safetensors files."),
            ("tokenizer_sha256", TEXT, "SHA-256 over the tokenizer's files."),
            ("architecture", TEXT, "Model class, e.g. GPT2LMHeadModel."),
            ("attn_implementation", TEXT, "Attention implementation the model computed with."),
            ("quantization", TEXT, "Quantization method, null if none."),
            ("is_encoder_decoder", BOOL, "Whether the model has an encoder stack of its own."),
            ("n_layers", I32, "Number of blocks (of the decoder).", "layers"),
            ("n_heads", I32, "Attention heads per layer.", "heads"),
            ("d_model", I32, "Width of the residual stream.", "elements"),
            ("d_vocab", I32, "Size of the output vocabulary.", "tokens"),
            ("dtype", TEXT, "Number format the model computed in."),
            ("device", TEXT, "Device the model ran on."),
            ("seed", I64, "Run seed; a draw depends on (seed, item, sample, step) only."),
            ("config", TEXT, "Resolved configuration as JSON, without secrets."),
            ("versions", TEXT, "Versions of tracelake and of the libraries used, as JSON."),
            ("n_sequences", I64, "Sequences committed so far.", "sequences"),
            ("n_tokens", I64, "Token rows committed so far (prompt and generated).", "tokens"),
            ("error", TEXT, "Why the run failed; null otherwise."),
        ),
    ),
    key=("run_id",),
    kind="view",
)

SEQUENCES = Table(
    "sequences",
    "One row per sequence: a prompt and its completion, how it was sampled and how it was graded.",
    (
        RUN,
        SEQUENCE,
        *_columns(
            ("prompt_id", TEXT, "First 16 hex digits of SHA-256 over the prompt as given; equal across models."),
            ("item_id", TEXT, "The input's own id, or its index."),
            ("item_offset", I64, "Where in its item this sequence begins.", "tokens"),
            ("sample", I32, "0-based sample number of this prompt."),
            ("origin", TEXT, "sampled, greedy, forced, oracle or read."),
            ("parent_run_id", TEXT, "Run of the sequence this one branched from."),
            ("parent_sequence_id", I64, "Sequence this one branched from."),
            ("branch_position", I32, "Position of the first token that differs from the parent.", "tokens"),
            ("prompt", TEXT, "The prompt as given (messages as canonical JSON)."),
            ("rendered_prompt", TEXT, "The prompt after the chat template; null if equal to `prompt`."),
            ("completion", TEXT, "Generated text without special tokens."),
            ("n_prompt_tokens", I32, "Tokens of the prompt as fed to the model.", "tokens"),
            ("n_generated_tokens", I32, "Generated tokens, the end token included.", "tokens"),
            ("finish_reason", TEXT, "eos, length, context, stop_string, stopped, broken or none (read)."),
            ("temperature", F64, "Sampling temperature; 0 is greedy."),
            ("top_p", F64, "Nucleus mass kept; null if off.", "probability"),
            ("top_k", I32, "Number of best tokens kept; null if off.", "tokens"),
            ("seed", I64, "Run seed."),
            ("dataset", TEXT, "Where the prompt came from: a dataset name or file name."),
            ("split", TEXT, "Split of the dataset."),
            ("answer", TEXT, "Reference answer, if the input has one."),
            ("predicted_answer", TEXT, "Answer found in the completion by the grader."),
            ("correct", BOOL, "Whether the predicted answer equals the reference; null without a reference."),
            ("label_reason", TEXT, "Why `correct` is what it is, where that needs saying."),
            ("grader", TEXT, "Name and version of the grader."),
            ("solution_method", TEXT, "Solution method recognised in the completion (tinymath: direct, split)."),
            ("next_entropy_bits", F32, "Entropy of the raw distribution after the last token.", "bits"),
            ("next_topk_ids", I32S, "Most probable next tokens after the last token, by falling probability."),
            ("next_topk_logprobs", F32S, "Their log-probabilities.", "nats"),
            ("metadata", TEXT, "The input's own metadata as JSON."),
            ("batch_size", I32, "Sequences in the batch this one ran in.", "sequences"),
            ("batch_index", I32, "Row of the batch this one ran in."),
        ),
    ),
    key=("run_id", "sequence_id"),
)

TOKEN_STEPS = Table(
    "token_steps",
    "One row per token: the token at `position` and the raw distribution that predicted it (null at position 0).",
    (
        RUN,
        SEQUENCE,
        POSITION,
        STACK,
        *_columns(
            ("step", I32, "0-based index among generated tokens; null in the prompt.", "tokens"),
            ("is_prompt", BOOL, "Whether the token belongs to the prompt."),
            ("is_forced", BOOL, "Whether the token was forced rather than chosen."),
            ("token_id", I32, "Vocabulary id of the token."),
            ("token", TEXT, "The token decoded alone, for display only; rebuild text with `char_end`."),
            ("char_end", I32, "End offset of the token in the prompt text or the completion.", "characters"),
            ("logprob", F32, "Log-probability of the token under the raw logits.", "nats"),
            ("surprisal_bits", F32, "-log2 probability of the token under the raw logits.", "bits"),
            ("entropy_bits", F32, "Entropy of the raw next-token distribution over the whole vocabulary.", "bits"),
            ("rank", I32, "Number of tokens with a strictly larger logit; 0 is the top token.", "tokens"),
            ("top1_prob", F32, "Probability of the most probable token.", "probability"),
            ("margin", F32, "Probability of the first minus that of the second token.", "probability"),
            ("top10_mass", F32, "Sum of the ten largest probabilities.", "probability"),
            (
                "sampling_logprob",
                F32,
                "Log-probability under the distribution sampled from; null if not sampled.",
                "nats",
            ),
            ("sampling_entropy_bits", F32, "Entropy of the distribution sampled from; null if not sampled.", "bits"),
            ("topk_ids", I32S, "Most probable tokens by falling probability."),
            ("topk_logprobs", F32S, "Their raw log-probabilities.", "nats"),
            ("latency_ms", F32, "Wall time of the batch step that chose the token; null in the prompt.", "ms"),
        ),
    ),
    key=("run_id", "sequence_id", "position"),
)

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
        *_columns(
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
            ("cos_prev_position", F32, "Cosine to the same site at the position before; null at position 0."),
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
        *_columns(
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
    "One row per kept attention edge of the prompt (over a threshold, capped per head); the query is `position`.",
    (
        RUN,
        SEQUENCE,
        POSITION,
        LAYER,
        HEAD,
        KIND,
        STACK,
        *_columns(
            ("key", I32, "Position attended to.", "tokens"),
            ("weight", F32, "Attention weight.", "probability"),
        ),
    ),
    key=("run_id", "sequence_id", "position", "layer", "head", "kind", "key"),
)

ACTIVATIONS = Table(
    "activations",
    "One row per token, layer and site: the state itself; the view decodes `vector` to FLOAT[].",
    (RUN, SEQUENCE, POSITION, LAYER, SITE, STACK, DTYPE, DIM)
    + _columns(
        ("scale", F32, "Factor that turns int8 elements into values; null for the other formats."),
        ("vector", VECTOR, "The state: dim x width bytes, little-endian (FLOAT[] in the view).", "model units", True),
    ),
    key=("run_id", "sequence_id", "position", "layer", "site"),
    partitions=("layer", "site"),
    row_group_rows=8_192,
    compressed=False,
    vector="vector",
)

STEP_EMBEDDINGS = Table(
    "step_embeddings",
    "One row per generated token, embedder and scope: the sentence embedding of the text up to this token; and one for "
    "the prompt alone, at its last token.",
    (RUN, SEQUENCE, POSITION)
    + _columns(
        ("embedder", TEXT, "Name of the sentence-transformers model.", None, True),
        ("scope", TEXT, "Text embedded: prompt+completion, completion, window:N tokens, or prompt.", None, True),
        ("step", I32, "0-based index among generated tokens; null for the prompt alone.", "tokens"),
        ("n_pieces", I32, "Word pieces of the text before truncation by the embedder.", "word pieces"),
        ("truncated", BOOL, "Whether the embedder cut the text."),
    )
    + (DTYPE, DIM)
    + _columns(("vector", VECTOR, "The embedding, of unit length (FLOAT[] in the view).", None, True)),
    key=("run_id", "sequence_id", "position", "embedder", "scope"),
    row_group_rows=8_192,
    compressed=False,
    vector="vector",
)

SAE_FEATURES = Table(
    "sae_features",
    "One row per active sparse-autoencoder feature of a token.",
    (RUN, SEQUENCE, POSITION)
    + _columns(("sae_id", TEXT, "The sparse autoencoder.", None, True))
    + (LAYER, SITE)
    + _columns(
        ("feature", I32, "Index of the feature in the dictionary.", None, True),
        ("activation", F32, "Activation of the feature.", "model units"),
    ),
    key=("run_id", "sequence_id", "position", "sae_id", "feature"),
)

OPERATIONS = Table(
    "operations",
    "One row per timed operation and segment: where the time of a run went.",
    (RUN,)
    + _columns(
        ("writer", TEXT, "Writer (process) that did it.", None, True),
        ("segment", I32, "Segment it was committed with.", None, True),
        ("name", TEXT, "Operation: load, prefill, decode, write...; `wall` is all time that passed.", None, True),
        ("parent", TEXT, "Operation it is part of; null at the top."),
        ("count", I64, "Times it ran.", "calls"),
        ("total_ms", F64, "Total wall time.", "ms"),
        ("max_ms", F64, "Longest single call.", "ms"),
    ),
    key=("run_id", "writer", "segment", "name"),
)

IMPORTED_METRICS = Table(
    "imported_metrics",
    "Values of imported reports that no observation column holds, one per row, with the reason where one is missing.",
    (RUN, SEQUENCE)
    + _columns(
        ("step", I32, "0-based step; null for values of the whole sequence."),
        ("layer", I32, "Block index; null for values of no layer."),
        ("name", TEXT, "Name of the metric; docs/exchange.md says which field it comes from.", None, True),
        ("value", F64, "The value; null if it could not be known."),
        ("reason", TEXT, "Why the value is null."),
    ),
    key=("run_id", "sequence_id", "step", "layer", "name"),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        RUNS,
        SEQUENCES,
        TOKEN_STEPS,
        LAYER_SUMMARIES,
        HEAD_SUMMARIES,
        ATTENTION_EDGES,
        ACTIVATIONS,
        STEP_EMBEDDINGS,
        SAE_FEATURES,
        OPERATIONS,
        IMPORTED_METRICS,
        *DERIVED_TABLES,
    )
}


def stored_tables() -> Iterable[Table]:
    """Tables that have files; `runs` is derived from records."""
    return (table for table in TABLES.values() if table.kind != "view")
