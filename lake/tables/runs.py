"""The tables about runs themselves: what they are, where their time went, what was computed from them."""

from .key_columns import ANALYSIS, BOOL, F64, I32, I64, RUN, TEXT, TIME, columns
from .table import Table

RUNS = Table(
    "runs",
    "One row per run, derived from run.json, the commit records and the lock; never written.",
    (
        RUN,
        *columns(
            ("tag", TEXT, "The user's label for the run."),
            ("kind", TEXT, "generate, read, experiment, sae or import."),
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
            ("experiment_id", TEXT, "Experiment that the run belongs to; null without one."),
            ("experiment_step", TEXT, "What it is in that experiment: greedy:128, sampled:1:8:128, oracles..."),
        ),
    ),
    key=("run_id",),
    kind="view",
)

OPERATIONS = Table(
    "operations",
    "One row per timed operation and segment: where the time of a run went.",
    (RUN,)
    + columns(
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

ANALYSES = Table(
    "analyses",
    "One row per analysis: what was computed, with which parameters, from which committed files.",
    (RUN, ANALYSIS)
    + columns(
        ("name", TEXT, "trajectory, topology, compare, embed or labels.", None, True),
        ("parameters", TEXT, "Resolved parameters as JSON.", None, True),
        ("snapshot", TEXT, "First 16 hex digits of SHA-256 over the committed files that were read.", None, True),
        ("other_run_id", TEXT, "The second run of a comparison."),
        ("created_at", TIME, "When it was computed.", "UTC"),
        ("n_sequences", I64, "Sequences that were analysed.", "sequences"),
        ("notices", TEXT, "What a reader must know, one sentence after the other; null if nothing."),
    ),
    key=("run_id", "analysis_id"),
    kind="derived",
)
