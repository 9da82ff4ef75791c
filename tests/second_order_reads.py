"""Batches of random models read with everything kept that second-order effects hold fixed, and the path by hand."""

from dataclasses import dataclass

import numpy as np
import torch
from frozen_weights import BlockWeights
from random_models import D_MODEL, D_VOCAB, N_HEADS, byte_tokenizer, random_model
from torch import Tensor

from tracelake.collect.decoding.reading.check import choose_reading
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.models.model import LoadedModel
from tracelake.collect.rereading.second_order.frozen_pass import FrozenPass, read_frozen
from tracelake.collect.rereading.second_order.head_paths import HeadPaths
from tracelake.collect.rereading.second_order.scorer import LayerScores, Scorer, SecondOrderOptions
from tracelake.collect.stored_sequences import StoredBatch, batches_of

LENGTHS = (17, 3, 11, 3)
CENTRED = ("gpt2", "neox")


def loaded_model(architecture: str, dtype: torch.dtype = torch.float64) -> LoadedModel:
    model = random_model(architecture).to(dtype).requires_grad_(False)
    return LoadedModel(architecture, model, byte_tokenizer(), torch.device("cpu"))


@dataclass
class Read:
    """A batch that was read, and what was scored of it."""

    paths: HeadPaths
    batch: StoredBatch
    frozen: FrozenPass
    neurons: dict[int, Tensor]
    scores: list[LayerScores]


def read(loaded: LoadedModel, **options: object) -> list[Read]:
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    paths = HeadPaths(loaded, 7.0 * direction)
    asked = SecondOrderOptions(by_token=True, by_head=True, **options)
    rng = np.random.default_rng(0)
    sequences = [Sequence(i, i, 0, rng.integers(3, D_VOCAB, n)) for i, n in enumerate(LENGTHS)]
    found, reading = [], choose_reading(loaded)
    for group in batches_of(sequences, reading, 4):
        batch = StoredBatch(loaded, group, reading)
        frozen = read_frozen(paths, batch, keep_states=True)
        neurons = dict(frozen.mlp_post)
        found.append(Read(paths, batch, frozen, neurons, list(Scorer(paths, asked).scores(frozen))))
    return found


def centre(x: Tensor, architecture: str) -> Tensor:
    return x - x.mean(-1, keepdim=True) if architecture in CENTRED else x


def through_heads(
    architecture: str, weights: BlockWeights, frozen: FrozenPass, layer: int, row: int, source: Tensor
) -> Tensor:
    """What the heads of a layer write at T, each, when `source` [column d] stands in the residual stream: linear."""
    normed = weights.gain * centre(source, architecture) / frozen.before[layer][row].unsqueeze(-1)
    group = torch.arange(N_HEADS) // (N_HEADS // len(weights.values))
    values = torch.einsum("id,hde->hie", normed, weights.values[group])
    attended = torch.einsum("hi,hie->he", frozen.weights[layer][row] * frozen.real[row], values)
    written = torch.einsum("he,hed->hd", attended, weights.outputs)
    if weights.behind_attention is not None:
        written = weights.behind_attention * written / frozen.behind[layer][row]
    return written


def neuron_writes(weights: BlockWeights, frozen: FrozenPass, layer: int, row: int, activation: Tensor) -> Tensor:
    """What neurons write at every column, `[column neuron d]`."""
    written = activation.unsqueeze(-1) * weights.neurons
    if weights.behind_mlp is not None:
        written = weights.behind_mlp * written / frozen.behind_mlp[layer][row][:, None, None]
    return written * frozen.real[row][:, None, None]
