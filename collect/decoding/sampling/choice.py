"""Choosing the next token: greedy, or a draw that depends on (run seed, item, sample, step) and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...observing.summaries import best_tokens, entropy_bits
from .settings import Sampling

__all__ = ["Choice", "Sampling", "choose", "uniform_draws"]

Processors = Callable[[Any, Any], Any]
"""Ids so far and scores of the next token, a row per sequence, to other scores."""


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): a bijection whose output bits are well mixed."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def uniform_draws(seed: int, items: np.ndarray, samples: np.ndarray, step: int | np.ndarray) -> np.ndarray:
    """One number in [0, 1) per row, a function of its arguments only; float64 with 53 random bits."""
    state = _mixed(np.full(len(items), seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64))
    for part in (items, samples, np.broadcast_to(step, len(items))):
        state = _mixed(state ^ part.astype(np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass
class Choice:
    """Chosen tokens with their place in the distribution sampled from (None when greedy)."""

    token_ids: Int[Tensor, " batch"]
    logprob: Float[Tensor, " batch"] | None
    entropy_bits: Float[Tensor, " batch"] | None

    def overruled(self, given: Int[Tensor, " batch"]) -> "Choice":
        """The choice with the ids that are not negative in place of its own; nothing was sampled there (NaN)."""
        free = given < 0
        statistics = (self.logprob, self.entropy_bits)
        return Choice(
            self.token_ids.where(free, given),
            *(None if values is None else values.where(free, torch.nan) for values in statistics),
        )


def choose(
    logits: Float[Tensor, "batch d_vocab"],
    context: Int[Tensor, "batch pos"],
    processors: Processors,
    draws: np.ndarray | None,
) -> Choice:
    """The next token of each row: the best one, or the one at `draws` in the cumulative processed distribution.

    `context` holds prompt and generated ids for the repetition penalty; padded columns repeat an id of their own row.
    """
    scores = processors(context, logits.float())
    if draws is None:
        return Choice(best_tokens(scores), None, None)
    logprobs = scores.log_softmax(-1)
    # Single precision loses the tail of a large vocabulary's cumulative sum; MPS has no double.
    wide = torch.float32 if scores.device.type == "mps" else torch.float64
    cumulative = logprobs.to(wide).exp().cumsum(-1)
    total = cumulative[:, -1:]
    target = torch.from_numpy(draws).to(device=scores.device, dtype=wide).unsqueeze(-1) * total
    # Rounding up to the total would point behind the last token that has any probability.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    ids = torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_max(scores.shape[-1] - 1)
    return Choice(ids, logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1), entropy_bits(scores))
