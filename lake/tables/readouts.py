"""The tables of what states say about the next token: the logit lens, and which parts of the model make a choice."""

from .key_columns import ANALYSIS, F32, F32S, F64, I16, I32, I32S, LAYER, POSITION, RUN, SEQUENCE, TEXT, columns
from .table import Table

LOGIT_LENS = Table(
    "logit_lens",
    "One row per token and layer: what the state behind that block would predict, read by the model's own final norm "
    "and unembedding.",
    (RUN, SEQUENCE, POSITION, ANALYSIS, LAYER)
    + columns(
        ("entropy_bits", F32, "Entropy of that prediction over the whole vocabulary.", "bits"),
        ("rank", I32, "Tokens with a strictly larger logit than the actual next token; null at the last.", "tokens"),
        ("logprob", F32, "Log-probability of the actual next token; null at the last.", "nats"),
        ("top1_prob", F32, "Probability of the most probable token.", "probability"),
        ("kl_bits", F32, "Divergence of that prediction from the final one, KL(final || lens).", "bits"),
        ("topk_ids", I32S, "Most probable next tokens by falling probability."),
        ("topk_logprobs", F32S, "Their log-probabilities.", "nats"),
        ("reason", TEXT, "Why values are null, where they are not null by construction."),
    ),
    key=("run_id", "sequence_id", "position", "analysis_id", "layer"),
    kind="derived",
)

LOGIT_CONTRIBUTIONS = Table(
    "logit_contributions",
    "One row per point and part of the model: how much it adds to the logit of token a over token b, with the final "
    "norm's scale held fixed. The parts add up to `logit_diff_uncapped`.",
    (RUN, SEQUENCE, POSITION, ANALYSIS)
    + columns(
        ("token_a", I32, "The token whose logit counts up: the best one, unless tokens were named.", None, True),
        ("token_b", I32, "The token it is compared with: the second best, unless tokens were named.", None, True),
        ("part", TEXT, "embedding, attn_out, mlp_out, head, attn_bias (both parts of attn_out) or bias.", None, True),
        ("layer", I32, "Block of the part; null for embedding and bias."),
        ("head", I16, "Head within the layer, for part head."),
        ("contribution", F64, "What the part adds to the difference of logits.", "logits"),
        ("logit_diff", F64, "The model's logit of a minus that of b.", "logits"),
        ("logit_diff_uncapped", F64, "The same before the model's final soft cap; equal where it has none.", "logits"),
        ("reason", TEXT, "Why values are null."),
    ),
    key=("run_id", "sequence_id", "position", "analysis_id", "token_a", "token_b", "part", "layer", "head"),
    kind="derived",
)
