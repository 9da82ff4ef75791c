"""What a model's predictions lose when a site is replaced: cross-entropy and KL divergence over stored sequences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...lake import Lake
from ...lake.errors import ConfigError
from ..decoding.reading.check import choose_reading
from ..models.editing.changes import Change, Replace
from ..models.editing.edits import Edit, applied
from ..models.model import LoadedModel
from ..stored_sequences import StoredBatch, batches_of, computing, stored_sequences

BATCH_SIZE = 16
CHUNK_SEQUENCES = 256
BLOCK_BYTES = 32 * 2**20
"""Of logits that are alive at one time, of one condition."""
CLEAN = "clean"


@dataclass
class LossSums:
    """Sums over predicted tokens, in nats, by condition; `clean` is the model as it is and has no divergence."""

    n_tokens: int = 0
    cross_entropy: dict[str, float] = field(default_factory=dict)
    divergence: dict[str, float] = field(default_factory=dict)
    """KL(clean || condition)."""

    def add(self, condition: str, losses: Tensor, divergences: Tensor | None) -> None:
        """Count predicted tokens."""
        self.cross_entropy[condition] = self.cross_entropy.get(condition, 0.0) + float(losses.double().sum())
        if divergences is not None:
            self.divergence[condition] = self.divergence.get(condition, 0.0) + float(divergences.double().sum())


def site_losses(
    lake: Lake,
    run_id: str,
    loaded: LoadedModel,
    site: str,
    layer: int,
    changes: Mapping[str, Change],
    sequence_ids: Sequence[int],
    *,
    first: int = 0,
    should_stop: Callable[[], None] = lambda: None,
) -> LossSums:
    """Run the sequences through the model as it is and under each change of the site, from position `first` on.

    States before `first` stay as they are; counted are the tokens that follow positions from `first` on, so that every
    prediction that is counted has a replaced state at its own position.
    """
    if loaded.encoder is not None:
        raise ConfigError("Cross-entropies with a replaced site are computed for decoder-only models.")
    for change in changes.values():
        Edit(site, layer, change).check(loaded)
    reading = choose_reading(loaded)
    sums = LossSums()
    ids = list(sequence_ids)
    for start in range(0, len(ids), CHUNK_SEQUENCES):
        for group in batches_of(
            stored_sequences(lake, run_id, ids[start : start + CHUNK_SEQUENCES]), reading, BATCH_SIZE
        ):
            should_stop()
            with computing():
                states = {CLEAN: StoredBatch(loaded, group, reading).read()}
                for condition, change in changes.items():
                    batch = StoredBatch(loaded, group, reading)
                    with applied(loaded, [Edit(site, layer, _from(change, batch, first))]):
                        states[condition] = batch.read()
                _count(loaded, StoredBatch(loaded, group, reading), states, first, sums)
    return sums


def _from(change: Change, batch: StoredBatch, first: int) -> Change:
    """The change at positions from `first` on only."""
    pads = torch.as_tensor(batch.pads)
    inside = torch.arange(batch.width) - pads[:, None] >= first

    def replaced(states: Float[Tensor, "row column d"]) -> Float[Tensor, "row column d"]:
        return torch.where(inside.to(states.device).unsqueeze(-1), change(states), states)

    return Replace(replaced, f"{change.describe()} from {first}")


def _count(loaded: LoadedModel, batch: StoredBatch, states: Mapping[str, Tensor], first: int, sums: LossSums) -> None:
    """Add the losses of all tokens that follow a position from `first` on."""
    ids = torch.as_tensor(batch.ids).to(loaded.device)
    columns = torch.arange(batch.width) - torch.as_tensor(batch.pads)[:, None]
    rows, places = torch.nonzero((columns[:, :-1] >= first), as_tuple=True)
    rows, places = rows.to(loaded.device), places.to(loaded.device)
    following = ids[rows, places + 1]
    sums.n_tokens += len(following)
    block = max(1, BLOCK_BYTES // (4 * loaded.d_vocab))
    for start in range(0, len(following), block):
        span = slice(start, start + block)
        clean = _log_probabilities(loaded, states[CLEAN][rows[span], places[span]])
        for condition, final in states.items():
            given = clean if condition == CLEAN else _log_probabilities(loaded, final[rows[span], places[span]])
            losses = -given.gather(1, following[span, None])[:, 0]
            divergence = None if condition == CLEAN else (clean.exp() * (clean - given)).sum(1)
            sums.add(condition, losses, divergence)


def _log_probabilities(loaded: LoadedModel, states: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_vocab"]:
    return loaded.unembed(states).float().log_softmax(-1)
