"""The signals of a run, each from its stored tables, or the reason why it is not there."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import polars as pl

from ....lake.snapshot import Snapshot
from . import feature_signals, state_signals, token_signals
from .signal import ALONE, BASE, Block, Signal
from .state_signals import States

Maker = Callable[[Snapshot, pl.DataFrame], Signal]
_TOKENS: dict[str, Maker] = {
    "text": token_signals.text, "text-embedding": token_signals.text_embedding, BASE: token_signals.telemetry,
    "consistency": token_signals.consistency, "health": token_signals.health, "trajectory": token_signals.trajectory,
    "lens": token_signals.lens, "features": feature_signals.features, "reconstruction": feature_signals.reconstruction,
}  # fmt: skip
_STATES: dict[str, Callable[[States, pl.DataFrame], Signal]] = {
    "prompt": state_signals.prompt, "probe": state_signals.probe, "saplma": state_signals.saplma,
    "directions": state_signals.directions, "transitions": state_signals.transitions,
    "eigenscore": state_signals.eigenscore,
}  # fmt: skip
_TRACKS = {
    "tracks": partial(feature_signals.tracks, profile="default"),
    "tracks-churn": partial(feature_signals.tracks, profile="default", associated=True),
    "tracks-source": partial(feature_signals.tracks, profile="source"),
}


def collected(snapshot: Snapshot, sequences: pl.DataFrame, names: Sequence[str]) -> Iterator[Signal]:
    """The signals called so, in this order; the telemetry's columns and the controls of tracks follow theirs."""
    states = States(snapshot, sequences)
    for name in names:
        if name == "majority":
            yield Signal(
                name, (Block(name, (), sequences.select([]).to_numpy().reshape(sequences.height, 0)),), (name,)
            )
        elif name in _TRACKS:
            yield from _TRACKS[name](snapshot, sequences)
        elif name in _STATES:
            yield _STATES[name](states, sequences)
        else:
            signal = _TOKENS[name](snapshot, sequences)
            yield signal
            if name == BASE and signal.blocks:
                yield from _alone(signal)


def _alone(telemetry: Signal) -> Iterator[Signal]:
    """Each column of the telemetry as a signal."""
    [block] = telemetry.blocks
    for place, name in enumerate(ALONE):
        part = Block(name, (name,), block.values[:, [place]])
        yield Signal(f"{BASE}:{name}", (part,), ("logistic",))
