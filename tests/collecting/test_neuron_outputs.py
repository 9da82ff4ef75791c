"""What neurons write through later heads, against the frozen path by hand, on nine architectures in float64."""

import pytest
import torch
from frozen_weights import block_weights, final_weights
from random_models import ARCHITECTURES, N_HEADS, N_LAYERS
from second_order_reads import centre, loaded_model, neuron_writes, read, through_heads

from tracelake.collect.neurons.outputs import path_vectors

NEURONS = [5, 0, 40]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_outputs_are_those_of_the_frozen_path(architecture: str) -> None:
    loaded = loaded_model(architecture)
    weights = [block_weights(loaded.model, architecture, k) for k in range(N_LAYERS)]
    gain = final_weights(loaded.model, architecture)
    one = read(loaded)[0]
    frozen, row, layer = one.frozen, 0, 0
    outputs = path_vectors(one.paths, layer, NEURONS)
    onto = one.paths.neurons(layer)[:, NEURONS].T
    torch.testing.assert_close(outputs @ one.paths.direction, onto.double(), rtol=1e-9, atol=1e-10)
    writes = neuron_writes(weights[layer], frozen, layer, row, one.neurons[layer][row])
    q = (frozen.paths(layer)[row] @ one.neurons[layer][row][:, NEURONS]).T
    for place, neuron in enumerate(NEURONS):
        for k in range(layer + 1, N_LAYERS):
            by_hand = through_heads(architecture, weights[k], frozen, k, row, writes[:, neuron])
            final = gain * centre(by_hand, architecture) / frozen.end[row]
            part = slice((k - layer - 1) * N_HEADS, (k - layer) * N_HEADS)
            ours = q[place, part, None] * outputs[place, part]
            torch.testing.assert_close(ours, final, rtol=0, atol=1e-10 * max(1.0, float(final.abs().max())))
    assert path_vectors(one.paths, N_LAYERS - 1, [3]).shape[1] == 0
