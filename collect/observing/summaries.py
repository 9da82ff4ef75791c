"""Tensors to numbers: logits, residual states, attention scores. Pure functions on the device; no I/O, no model.

Everything is computed in float32 whatever the model's dtype; entropies are in bits.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .scratch import Scratch

LN2 = math.log(2.0)
N_TOP10 = 10
LEAST_EXPONENT = -87.0
"""Exponents below it count as this: exp(-87) is the least power of e that float32 holds with full precision, nothing
beside 1; exponentials that vanish are many times slower to compute."""
SEARCH_BLOCK = 64
"""Elements of the blocks whose maxima are searched first for the best tokens."""


class Distribution(NamedTuple):
    """What is kept of raw next-token distributions; `n` rows, `k` best tokens."""

    logprob: Float[Tensor, " n"]
    entropy_bits: Float[Tensor, " n"]
    rank: Int[Tensor, " n"]
    top1_prob: Float[Tensor, " n"]
    margin: Float[Tensor, " n"]
    top10_mass: Float[Tensor, " n"]
    topk_ids: Int[Tensor, "n k"]
    topk_logprobs: Float[Tensor, "n k"]


class Normalised(NamedTuple):
    """Logits made comparable: log-probabilities are `shifted - log_total`.

    The two parts stay apart: added up, logits far from zero would cost the log-probabilities their last digits.
    """

    top: Float[Tensor, "n 1"]
    shifted: Float[Tensor, "n d_vocab"]
    """Logits relative to the largest; of a masked one the least number, not -inf."""
    log_total: Float[Tensor, "n 1"]
    """Log of the sum of exponentials of `shifted`."""
    entropy: Float[Tensor, " n"]
    """In nats."""


def normalised(x: Float[Tensor, "n d_vocab"], scratch: Scratch | None = None) -> Normalised:
    """Float32 logits relative to their largest, and the entropy, from one exponential; `shifted` lies in `scratch`."""
    scratch = scratch or Scratch()
    top = x.amax(-1, keepdim=True)
    # A masked logit is -inf, and 0 * -inf is NaN; its term is 0 by definition.
    shifted = torch.sub(x, top, out=scratch.take("shifted", x.shape, x)).clamp_min_(torch.finfo(torch.float32).min)
    weight = torch.exp(shifted, out=scratch.take("weight", x.shape, x))
    total = weight.sum(-1)
    entropy = total.log() - _dot(weight, shifted) / total
    return Normalised(top, shifted, total.log().unsqueeze(-1), entropy)


def entropy_bits(logits: Float[Tensor, "n d_vocab"]) -> Float[Tensor, " n"]:
    """Entropy of softmax(logits) over the whole vocabulary, in bits."""
    return normalised(logits.float()).entropy.clamp_min(0) / LN2


def distribution(
    logits: Float[Tensor, "n d_vocab"],
    token_ids: Int[Tensor, " n"],
    *,
    k: int,
    known: Normalised | None = None,
    scratch: Scratch | None = None,
) -> Distribution:
    """Describe raw distributions and the place of `token_ids` in them (definitions: docs/glossary.md).

    `rank` counts strictly larger logits; `margin` is p1 - p2; `top10_mass` the ten largest probabilities. `known` is
    what `normalised` gave for these logits, where somebody needs it as well. `scratch` is room for what is not kept.
    """
    x = logits.float()
    scratch = scratch or Scratch()
    top, _, log_total, entropy = known or normalised(x, scratch)
    best, ids = _largest(x, min(max(k, N_TOP10), x.shape[-1]))
    best_logprob = best - top - log_total
    best_prob = best_logprob.exp()
    chosen = x.gather(-1, token_ids.unsqueeze(-1))
    runner_up = best_prob[:, 1] if best_prob.shape[-1] > 1 else torch.zeros_like(best_prob[:, 0])
    return Distribution(
        logprob=(chosen - top - log_total).squeeze(-1),
        entropy_bits=entropy.clamp_min(0) / LN2,
        # Added up as floats, which are exact up to 2^24 tokens: adding up booleans is four times slower.
        rank=torch.gt(x, chosen, out=_room(scratch, x)).sum(-1).to(torch.int32),
        top1_prob=best_prob[:, 0],
        margin=best_prob[:, 0] - runner_up,
        top10_mass=best_prob[:, :N_TOP10].sum(-1),
        topk_ids=ids[:, :k].to(torch.int32),
        topk_logprobs=best_logprob[:, :k],
    )


def distributions(
    logits: Float[Tensor, "n d_vocab"], token_ids: Int[Tensor, " n"], *, k: int, block_bytes: int
) -> Distribution:
    """`distribution` of many rows, as many at a time as stay in `block_bytes` and so in the processor's cache."""
    n = max(1, block_bytes // (4 * logits.shape[-1]))
    scratch = Scratch()
    pairs = zip(logits.split(n), token_ids.split(n), strict=True)
    parts = [distribution(*pair, k=k, scratch=scratch) for pair in pairs]
    return Distribution(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _room(scratch: Scratch, x: Tensor) -> Tensor:
    room = scratch.take("weight", x.shape, x)
    return torch.empty_like(x) if room is None else room


def best_tokens(x: Float[Tensor, "n d_vocab"]) -> Int[Tensor, " n"]:
    """Index of the largest element of each row as `argmax` finds it (the first of equal ones), faster on a CPU."""
    d = x.shape[-1]
    n_blocks = d // SEARCH_BLOCK
    if x.device.type != "cpu" or n_blocks < SEARCH_BLOCK:
        return x.argmax(-1)
    whole = n_blocks * SEARCH_BLOCK
    maxima = x[:, :whole].unflatten(-1, (n_blocks, SEARCH_BLOCK)).amax(-1)
    if whole < d:
        maxima = torch.cat((maxima, x[:, whole:].amax(-1, keepdim=True)), dim=-1)
    first = maxima.argmax(-1, keepdim=True) * SEARCH_BLOCK
    # The last block may be short: its last element stands for what is missing.
    columns = (first + torch.arange(SEARCH_BLOCK)).clamp_max_(d - 1)
    inside = x.gather(-1, columns).argmax(-1, keepdim=True)
    return columns.gather(-1, inside).squeeze(-1)


def _largest(x: Float[Tensor, "n d_vocab"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The `k` largest elements of each row and their indexes, as `topk` finds them, several times as fast on a CPU.

    The k largest elements lie in the k blocks with the largest maxima.
    """
    n, d = x.shape
    n_blocks = d // SEARCH_BLOCK
    if x.device.type != "cpu" or n_blocks < 4 * k:
        return x.topk(k, dim=-1)
    whole = n_blocks * SEARCH_BLOCK
    blocks = x[:, :whole].unflatten(-1, (n_blocks, SEARCH_BLOCK))
    chosen = blocks.amax(-1).topk(k, dim=-1).indices.sort(-1).values.unsqueeze(-1)
    candidates = torch.cat((blocks.gather(1, chosen.expand(n, k, SEARCH_BLOCK)).flatten(1), x[:, whole:]), dim=-1)
    inside = (chosen * SEARCH_BLOCK + torch.arange(SEARCH_BLOCK)).flatten(1)
    indexes = torch.cat((inside, torch.arange(whole, d).expand(n, -1)), dim=-1)
    values, place = candidates.topk(k, dim=-1)
    return values, indexes.gather(-1, place)


STATE_STATISTICS = (
    "l2_norm",
    "mean",
    "std",
    "max_abs",
    "n_nan",
    "n_inf",
    "cos_prev_layer",
    "cos_prev_position",
    "delta_norm",
)


def _cosine(dot: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Cosine out of a dot product and two norms; NaN marks "null" where a state is zero and has no direction."""
    return dot / a / b


def state_statistics(
    states: Float[Tensor, "site batch pos d_model"], before: Float[Tensor, "site batch d_model"] | None
) -> Float[Tensor, "statistic site batch pos"]:
    """The STATE_STATISTICS of stacked residual states, each compared with the one below it in the stack.

    Args: `states` ordered so that site i is compared with site i-1 (site 0 with nothing: NaN marks "null" there);
    `before` is the last position of the previous chunk, None at the start (then position 0 has no predecessor).
    """
    x = states.float()
    d_model = x.shape[-1]
    norm = torch.linalg.vector_norm(x, dim=-1)
    mean = x.mean(-1)
    # The norm of the centred state is as exact as torch.var and ten times as fast.
    centred = torch.linalg.vector_norm(x - mean.unsqueeze(-1), dim=-1)
    std = centred / math.sqrt(d_model - 1) if d_model > 1 else torch.full_like(mean, math.nan)
    delta = x[1:] - x[:-1]
    nothing = torch.full_like(norm[:1], math.nan)
    cos_layer = _cosine(torch.linalg.vecdot(x[1:], x[:-1]), norm[1:], norm[:-1])
    n_nan, n_inf = _bad_elements(x, norm)
    return torch.stack(
        (
            norm,
            mean,
            std,
            torch.maximum(x.amax(-1).abs(), x.amin(-1).abs()),  # twice as fast as the largest of a copy without signs
            n_nan,
            n_inf,
            torch.cat((nothing, cos_layer)),
            _cosine_to_previous_position(x, norm, before),
            torch.cat((nothing, torch.linalg.vector_norm(delta, dim=-1))),
        )
    )


def _bad_elements(x: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of NaN and of infinite elements per state, as floats so that they travel with the other statistics."""
    # Counting costs two passes, and a finite norm proves that there is nothing to count. Elsewhere than on the CPU
    # the proof would cost a transfer to the host, which is dearer than the passes.
    if x.device.type == "cpu" and torch.isfinite(norm).all():
        return torch.zeros_like(norm), torch.zeros_like(norm)
    return x.isnan().sum(-1).float(), x.isinf().sum(-1).float()


def _cosine_to_previous_position(x: Tensor, norm: Tensor, before: Tensor | None) -> Float[Tensor, "site batch pos"]:
    """Cosine of each state to the same site one position earlier; NaN marks "null" where there is none."""
    inner = _cosine(torch.linalg.vecdot(x[:, :, 1:], x[:, :, :-1]), norm[:, :, 1:], norm[:, :, :-1])
    if before is None:
        first = torch.full_like(norm[:, :, :1], math.nan)
    else:
        carried = before.float()
        dot = torch.linalg.vecdot(x[:, :, 0], carried)
        first = _cosine(dot, norm[:, :, 0], torch.linalg.vector_norm(carried, dim=-1)).unsqueeze(-1)
    return torch.cat((first, inner), dim=-1)


class AttentionRows(NamedTuple):
    """What one layer's heads did for some queries."""

    entropy_bits: Float[Tensor, "batch head query"]
    max_weight: Float[Tensor, "batch head query"]
    max_index: Int[Tensor, "batch head query"]
    middle: Float[Tensor, "batch head query"] | None
    total: Float[Tensor, "batch head query"]
    weights: Float[Tensor, "batch head query key"] | None = None


def attention_rows(
    scores: Float[Tensor, "batch head query key"],
    sinks: Float[Tensor, "row head query"] | None = None,
    middle_keys: Bool[Tensor, "batch key"] | None = None,
    *,
    with_weights: bool = False,
    scratch: Scratch | None = None,
) -> AttentionRows:
    """Entropy, largest weight and its lowest key index of softmax(scores), without a second map for the weights.

    `scores` are masked (masked keys at the lowest float) and scaled. `sinks` add one logit per query that takes weight
    but is no key (then weights sum to less than 1 and the entropy is over the keys only). `middle_keys` asks for the
    weight on these keys too, `with_weights` for all weights. Overwrites `scores`; in `scratch` lies what is not kept.
    """
    top, index = scores.max(-1)
    reference = top if sinks is None else torch.maximum(top, sinks)
    shifted = scores.sub_(reference.unsqueeze(-1)).clamp_min_(LEAST_EXPONENT)
    weight = torch.exp(shifted, out=None if scratch is None else scratch.take("weight", shifted.shape, shifted))
    total = weight.sum(-1)
    normaliser = total if sinks is None else total + (sinks - reference).exp()
    weights = _weights(weight, shifted, normaliser) if with_weights else None
    middle = None
    if middle_keys is not None:
        middle = torch.linalg.vecdot(weight, middle_keys.float()[:, None, None, :]) / normaliser
    moment = _dot(weight, shifted)
    # H = -sum (w/Z) ln(w/Z) = (ln Z * sum w - sum w*z) / Z ; with no sink sum w = Z.
    entropy = (normaliser.log() * total - moment) / normaliser
    return AttentionRows(
        entropy.clamp_min_(0) / LN2,
        (top - reference).exp() / normaliser,
        index,
        middle,
        total / normaliser,
        weights,
    )


def _weights(weight: Tensor, shifted: Tensor, normaliser: Tensor) -> Float[Tensor, "batch head query key"]:
    """Weights that add up to what the keys have; masked keys have none at all."""
    return weight.masked_fill(shifted <= LEAST_EXPONENT, 0.0) / normaliser.unsqueeze(-1)


def _dot(a: Float[Tensor, "*rows d"], b: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
    """The dot product of each row; overwrites `a`, since a new tensor for the products costs more than they do."""
    return torch.linalg.vecdot(a, b) if a.requires_grad else a.mul_(b).sum(-1)
