"""Final states at position T of stored sequences when the model is edited: what is real, beside what is predicted."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...lake import Lake
from ..decoding.reading.check import choose_reading
from ..decoding.sequence import Sequence as Row
from ..models.editing.changes import Replace
from ..models.editing.edits import Edit, applied
from ..models.model import LoadedModel
from ..rereading.targets import Target, cut_sequences
from ..stored_sequences import StoredBatch, batches_of, computing

BATCH_ROWS = 128


class EditedEnds:
    """Sequences up to their positions T, to be read again under edits; targets keep their order."""

    def __init__(self, lake: Lake, run_id: str, targets: Sequence[Target], loaded: LoadedModel) -> None:
        self.loaded, self.reading = loaded, choose_reading(loaded)
        self.place = {target.sequence_id: i for i, target in enumerate(targets)}
        self.sequences: list[Row] = cut_sequences(lake, run_id, targets)

    def states(self, edits: Sequence[Edit] = ()) -> Float[np.ndarray, "target d_model"]:
        """Final-normed states at T with these edits in every sequence; float64."""
        found = np.zeros((len(self.sequences), self.loaded.d_model))
        for group in batches_of(self.sequences, self.reading, BATCH_ROWS):
            batch = StoredBatch(self.loaded, group, self.reading)
            with computing(), applied(self.loaded, edits):
                final = batch.read()[:, -1]
            found[[self.place[one.sequence_id] for one in group]] = final.double().cpu().numpy()
        return found

    def without_each(
        self, layer: int, neurons: Sequence[int], direction: Float[Tensor, " d_model"]
    ) -> Float[np.ndarray, "target neuron"]:
        """Inner products with a direction of the final states without each neuron: zero at every position.

        Every row of a batch lacks a neuron of its own, so that sequences and neurons share their passes.
        """
        found = np.zeros((len(self.sequences), len(neurons)))
        along = direction.double().to(self.loaded.device)
        size = 1 if self.reading.alone else BATCH_ROWS
        for group in batches_of(self.sequences, self.reading, max(1, size // len(neurons))):
            for start in range(0, len(neurons), size):
                some = list(neurons[start : start + size])
                rows = [one for one in group for _ in some]
                batch = StoredBatch(self.loaded, rows, self.reading)
                removed = torch.tensor(some * len(group), device=self.loaded.device)
                with computing(), applied(self.loaded, [Edit("mlp_post", layer, _lacking(removed))]):
                    final = batch.read()[:, -1].double() @ along
                places = [self.place[one.sequence_id] for one in group]
                found[places, start : start + len(some)] = final.view(len(group), len(some)).cpu().numpy()
        return found

    def losses(
        self, states: Float[np.ndarray, "target d_model"], following: Sequence[int | None]
    ) -> Float[np.ndarray, " target"]:
        """Cross-entropy in nats of the token that follows each position T; NaN where none does."""
        found = np.full(len(states), np.nan)
        known = np.array([i for i, token in enumerate(following) if token is not None], np.int64)
        block = max(1, 64 * 2**20 // (4 * self.loaded.d_vocab))
        for start in range(0, len(known), block):
            part = known[start : start + block]
            given = torch.from_numpy(states[part]).to(self.loaded.device, self.loaded.model.dtype)
            ids = torch.tensor([following[i] for i in part], device=self.loaded.device)
            with computing():
                logits = self.loaded.unembed(given).float()
                loss = logits.logsumexp(-1) - logits.gather(1, ids[:, None])[:, 0]
            found[part] = loss.double().cpu().numpy()
        return found


def _lacking(neurons: Tensor) -> Replace:
    """Each row of a batch without one neuron."""

    def lacking(states: Float[Tensor, "row column neuron"]) -> Float[Tensor, "row column neuron"]:
        changed = states.clone()
        changed[torch.arange(len(neurons), device=states.device), :, neurons] = 0.0
        return changed

    return Replace(lacking, f"each row without one of {neurons.tolist()}")
