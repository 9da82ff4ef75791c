"""Signals from stored states of the residual stream: probes, differences of layers, spread of a prompt's samples."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from jaxtyping import Float

from ....lake.errors import NotFoundError
from ....lake.snapshot import Snapshot
from ...paths.states import At, states_at, stored_places
from .signal import Block, Signal, absent

if TYPE_CHECKING:
    from collections.abc import Sequence

SITE = "resid_post"
REGULARISATION = 1e-3
"""On the diagonal of the samples' covariance (eigenscore)."""
NO_STATES = f"the run stores no {SITE} at {{}}: `lake collect --keep activations:{SITE}` keeps it"


class States:
    """States of the run's sequences by layer and place, each read once."""

    def __init__(self, snapshot: Snapshot, sequences: pl.DataFrame) -> None:
        self._snapshot, self._sequences = snapshot, sequences
        self._held: dict[tuple[int, At], Float[np.ndarray, "sequence dim"] | None] = {}
        self.layers: Sequence[int] = stored_places(snapshot).get(SITE, [])

    def at(self, layer: int, at: At) -> Float[np.ndarray, "sequence dim"] | None:
        """States of one layer and place; None if none is stored."""
        if (layer, at) not in self._held:
            try:
                self._held[layer, at] = states_at(self._snapshot, SITE, layer, self._sequences, at)
            except NotFoundError:
                self._held[layer, at] = None
        return self._held[layer, at]

    def blocks(self, *places: At) -> Iterator[Block]:
        """One block per stored place and layer."""
        for at in places:
            for layer in self.layers:
                states = self.at(layer, at)
                if states is not None:
                    yield _block(f"{at}@{layer}", states)


def _block(name: str, states: Float[np.ndarray, "sequence dim"]) -> Block:
    return Block(name, tuple(f"{name}:{n}" for n in range(states.shape[1])), states)


def prompt(states: States, sequences: pl.DataFrame) -> Signal:
    """The state at the prompt's last token: how hard the problem looks before anything is answered."""
    return _of_blocks("prompt", list(states.blocks("prompt")), ("logistic",), "the prompt's last token")


def probe(states: States, sequences: pl.DataFrame) -> Signal:
    """Last and mean state of the answer, logistic; the layer is chosen in the training folds."""
    return _of_blocks("probe", list(states.blocks("answer", "mean")), ("logistic",), "answer tokens")


def saplma(states: States, sequences: pl.DataFrame) -> Signal:
    """The same states, told by a perceptron with three hidden layers."""
    return _of_blocks("saplma", list(states.blocks("answer", "mean")), ("perceptron",), "answer tokens")


def directions(states: States, sequences: pl.DataFrame) -> Signal:
    """The same states along the difference of class means, which is fitted in the training folds too."""
    return _of_blocks("directions", list(states.blocks("answer", "mean")), ("mean-difference",), "answer tokens")


def transitions(states: States, sequences: pl.DataFrame) -> Signal:
    """What a block adds to the last answer state."""
    blocks = []
    for below, above in zip(states.layers, states.layers[1:], strict=False):
        here, there = states.at(below, "answer"), states.at(above, "answer")
        if above == below + 1 and here is not None and there is not None:
            blocks.append(_block(f"transition@{above}", there - here))
    return _of_blocks("transitions", blocks, ("logistic",), "answer tokens of two consecutive layers")


def eigenscore(states: States, sequences: pl.DataFrame) -> Signal:
    """Spread of a prompt's samples: mean log eigenvalue of the covariance of their last states, regularised."""
    if sequences["prompt_id"].n_unique() == sequences.height:
        return absent("eigenscore", "one sample per prompt: no covariance (--samples)")
    index = np.unique(sequences["prompt_id"].to_numpy(), return_inverse=True)[1]
    blocks = []
    for layer in states.layers:
        vectors = states.at(layer, "answer")
        if vectors is not None:
            spread = spreads(vectors, index)
            blocks.append(Block(f"answer@{layer}", (f"eigenscore@{layer}",), spread[:, None]))
    return _of_blocks("eigenscore", blocks, (), "answer tokens")


def spreads(vectors: Float[np.ndarray, "sequence dim"], prompt: np.ndarray) -> Float[np.ndarray, " sequence"]:
    """log det(covariance of a prompt's samples + 1e-3) / samples, the same for each; NaN for fewer than two samples.

    Covariance between samples over the dimensions of their centred states, as in the method this is named for.
    """
    out = np.full(len(vectors), np.nan)
    for number in np.unique(prompt):
        rows = np.flatnonzero((prompt == number) & np.isfinite(vectors).all(axis=1))
        if len(rows) >= 2:
            centred = vectors[rows] - vectors[rows].mean(axis=1, keepdims=True)
            covariance = centred @ centred.T / vectors.shape[1] + REGULARISATION * np.eye(len(rows))
            out[rows] = np.linalg.slogdet(covariance)[1] / len(rows)
    return out


def _of_blocks(name: str, blocks: "list[Block]", models: tuple[str, ...], where: str) -> Signal:
    if not blocks:
        return absent(name, NO_STATES.format(where))
    return Signal(name, tuple(blocks), models)
