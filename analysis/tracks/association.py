"""Which feature of the next layer goes on with which track: all units (tokens or sequences) at once; knows arrays.

A unit's tracks are numbered from 0 in the order of birth: by layer, then by feature id. Slots of alive tracks are
sorted by number and slots of features by id, so that ties go to the lower one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from .dictionaries import Dictionaries

Method = Literal["hungarian", "greedy", "feature-id", "none", "top-1"]
SILENT = 1e-6
"""A last activation up to this has no ratio to the next one."""
AUDIBLE = 0.1
"""After a silent one, an activation above this costs the whole activation term."""
CELLS = 1 << 17
"""Costs (unit x track x feature) computed at one time."""


@dataclass(frozen=True)
class Rules:
    """When a feature goes on with a track, when one is born, when one dies."""

    method: Method = "hungarian"
    weights: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Of 1 - cosine, of the relative change of activation, of the shift of position."""
    match: float = 0.5
    """A pair counts if it costs less."""
    birth: float = 0.5
    """A feature without a track begins one if its activation is above."""
    death: float = 0.0
    """A pair whose activation is under this is none."""
    gap: int = 0
    """Layers that a track may go without a feature and live on."""


@dataclass(frozen=True)
class LayerFeatures:
    """The features of one layer that are offered to tracks, padded to the same number per unit."""

    feature: Int[np.ndarray, "unit slot"]
    """Sorted; -1 where a unit has fewer, at the end."""
    activation: Float[np.ndarray, "unit slot"]
    place: Float[np.ndarray, "unit slot"]
    """Where in the unit's positions the activation was found, from 0 to 1."""

    def part(self, units: slice) -> "LayerFeatures":
        """The same of some units, padding that they do not need cut off."""
        width = int((self.feature[units] >= 0).sum(axis=1).max(initial=0))
        return LayerFeatures(*(column[units, :width] for column in (self.feature, self.activation, self.place)))

    def strongest(self) -> "LayerFeatures":
        """The single most active feature of each unit; the lowest id among equals."""
        if not self.feature.shape[1]:
            return self
        best = np.where(self.feature >= 0, self.activation, -np.inf).argmax(axis=1)[:, None]
        return LayerFeatures(
            *(np.take_along_axis(column, best, 1) for column in (self.feature, self.activation, self.place))
        )


@dataclass(frozen=True)
class Points:
    """Matched features, one row each: everything there is to know of tracks. Sorted by (unit, layer, track)."""

    unit: Int[np.ndarray, " point"]
    track: Int[np.ndarray, " point"]
    layer: Int[np.ndarray, " point"]
    feature: Int[np.ndarray, " point"]
    activation: Float[np.ndarray, " point"]
    cost: Float[np.ndarray, " point"]
    """What the match cost; NaN where the track begins."""


@dataclass
class _Alive:
    """The tracks that may go on, one slot each; -1 in `track` where a unit has fewer."""

    track: Int[np.ndarray, "unit slot"]
    feature: Int[np.ndarray, "unit slot"]
    layer: Int[np.ndarray, "unit slot"]
    """Of the last match."""
    activation: Float[np.ndarray, "unit slot"]
    place: Float[np.ndarray, "unit slot"]

    @classmethod
    def none(cls, n_units: int) -> "_Alive":
        whole, real = np.empty((n_units, 0), np.int64), np.empty((n_units, 0))
        return cls(whole, whole, whole, real, real)

    def joined(self, born: "_Alive", kept: Bool[np.ndarray, "unit slot"]) -> "_Alive":
        """The kept slots and the born ones, moved together in their order."""
        there = np.concatenate([kept, born.track >= 0], axis=1)
        width = int(there.sum(axis=1).max(initial=0))
        order = np.argsort(~there, axis=1, kind="stable")[:, :width]
        pairs = [np.concatenate(pair, axis=1) for pair in zip(vars(self).values(), vars(born).values(), strict=True)]
        pairs[0] = np.where(there, pairs[0], -1)
        return _Alive(*(np.take_along_axis(column, order, 1) for column in pairs))


def follow(layers: Sequence[LayerFeatures], dictionaries: Dictionaries, rules: Rules) -> Points:
    """The tracks of every unit through all layers."""
    n_units = len(layers[0].feature)
    if rules.method == "top-1":
        layers = [layer.strongest() for layer in layers]
    width = max(layer.feature.shape[1] for layer in layers)
    block = max(1, CELLS // max(1, width * width * (1 + rules.gap)))
    pieces = []
    for start in range(0, n_units, block):
        part = _follow([one.part(slice(start, start + block)) for one in layers], dictionaries, rules)
        pieces += [(part[0] + start, *part[1:])]
    if not pieces:
        whole, real = np.empty(0, np.int64), np.empty(0)
        return Points(whole, whole, whole, whole, real, real)
    return Points(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _follow(
    layers: Sequence[LayerFeatures], dictionaries: Dictionaries, rules: Rules
) -> tuple[np.ndarray, ...]:  # fmt: skip
    n_units = len(layers[0].feature)
    alive, n_tracks = _Alive.none(n_units), np.zeros(n_units, np.int64)
    rows = []
    for layer, offered in enumerate(layers):
        slot, cost = _matched(alive, offered, layer, dictionaries, rules)
        born = (slot < 0) & (offered.feature >= 0) & (offered.activation > rules.birth)
        number = n_tracks[:, None] + np.cumsum(born, axis=1) - 1
        known = alive.track if alive.track.shape[1] else np.full((n_units, 1), -1)
        track = np.where(born, number, np.where(slot >= 0, np.take_along_axis(known, np.maximum(slot, 0), 1), -1))
        unit, place = np.nonzero(track >= 0)
        rows.append((
            unit, track[unit, place], np.full(len(unit), layer), offered.feature[unit, place],
            offered.activation[unit, place], np.where(born, np.nan, cost)[unit, place],
        ))  # fmt: skip
        n_tracks += born.sum(axis=1)
        unit, place = np.nonzero(slot >= 0)
        went = slot[unit, place]
        alive.feature[unit, went], alive.layer[unit, went] = offered.feature[unit, place], layer
        alive.activation[unit, went], alive.place[unit, went] = (
            offered.activation[unit, place], offered.place[unit, place],
        )  # fmt: skip
        new = _Alive(
            np.where(born, number, -1), offered.feature.copy(), np.full_like(number, layer),
            offered.activation.copy(), offered.place.copy(),
        )  # fmt: skip
        alive = alive.joined(new, (alive.track >= 0) & (layer - alive.layer <= rules.gap))
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    order = np.lexsort((columns[1], columns[2], columns[0]))
    return tuple(column[order] for column in columns)


def _matched(
    alive: _Alive, offered: LayerFeatures, layer: int, dictionaries: Dictionaries, rules: Rules
) -> tuple[Int[np.ndarray, "unit slot"], Float[np.ndarray, "unit slot"]]:
    """For every offered feature the slot of the track it goes on with (-1: none), and the cost of that."""
    slot = np.full(offered.feature.shape, -1, np.int64)
    if rules.method == "none" or not alive.track.shape[1] or not offered.feature.shape[1]:
        return slot, np.full(offered.feature.shape, np.nan)
    costs = _costs(alive, offered, layer, dictionaries, rules)
    there = (alive.track >= 0)[:, :, None] & (offered.feature >= 0)[:, None, :]
    if rules.method == "feature-id":
        same = (alive.feature[:, :, None] == offered.feature[:, None, :]) & there
        # Of two tracks with one last feature (possible after a gap) the lower number goes on.
        slot = np.where(same.any(axis=1), same.argmax(axis=1), -1)
    elif rules.method == "greedy":
        _assign_greedily(slot, np.where(there, costs, np.inf), alive, rules.match)
    else:
        _assign(slot, costs, (alive.track >= 0).sum(axis=1), (offered.feature >= 0).sum(axis=1), rules.match)
    slot[offered.activation < rules.death] = -1
    return slot, np.take_along_axis(costs, np.maximum(slot, 0)[:, None, :], 1)[:, 0]


def _costs(
    alive: _Alive, offered: LayerFeatures, layer: int, dictionaries: Dictionaries, rules: Rules
) -> Float[np.ndarray, "unit track feature"]:
    """What it costs each feature to go on with each track; any number where either slot is empty."""
    by_cosine, by_activation, by_place = rules.weights
    costs = _distances(alive, offered, layer, dictionaries, rules.gap, by_cosine)
    a, b = alive.activation[:, :, None], offered.activation[:, None, :]
    change, both = a - b, a + b
    np.abs(change, out=change)
    if (silent := a <= SILENT).any():
        change = np.where(silent, b > AUDIBLE, change / np.where(silent, 1, both))
    else:
        change /= both
    change *= by_activation
    costs += change
    if by_place and (alive.place.any() or offered.place.any()):
        costs += by_place * np.abs(alive.place[:, :, None] - offered.place[:, None, :])
    return costs


def _distances(
    alive: _Alive, offered: LayerFeatures, layer: int, dictionaries: Dictionaries, gap: int, weight: float
) -> Float[np.ndarray, "unit track feature"]:
    """`weight` x (1 - cosine) of decoder rows: of each track's last feature, of any layer, and of each offered one."""
    if not gap:
        return dictionaries.distances(layer - 1, alive.feature, layer, offered.feature, weight)
    distance = np.zeros((*alive.track.shape, offered.feature.shape[1]))
    for last in range(max(0, layer - 1 - gap), layer):
        here = (alive.track >= 0) & (alive.layer == last)
        if here.any():
            features = np.where(here, alive.feature, -1)
            found = dictionaries.distances(last, features, layer, offered.feature, weight)
            distance = np.where(here[:, :, None], found, distance)
    return distance


def _assign(
    slot: Int[np.ndarray, "unit feature"],
    costs: Float[np.ndarray, "unit track feature"],
    n_alive: Int[np.ndarray, " unit"],
    n_offered: Int[np.ndarray, " unit"],
    match: float,
) -> None:
    """The assignment of least total cost in each unit; of its pairs those that cost less than `match`."""
    from scipy.optimize import linear_sum_assignment

    for unit in np.flatnonzero((n_alive > 0) & (n_offered > 0)).tolist():
        track, feature = linear_sum_assignment(costs[unit, : n_alive[unit], : n_offered[unit]])
        slot[unit, feature] = track
    dear = np.take_along_axis(costs, np.maximum(slot, 0)[:, None, :], 1)[:, 0] >= match
    slot[dear] = -1


def _assign_greedily(
    slot: Int[np.ndarray, "unit feature"], costs: Float[np.ndarray, "unit track feature"], alive: _Alive, match: float
) -> None:
    """The strongest track takes the feature that costs it least, then the next one takes among the rest.

    `costs` are infinite where a slot is empty; what is taken becomes so.
    """
    units, free = np.arange(len(slot)), costs
    order = np.argsort(np.where(alive.track >= 0, -alive.activation, np.inf), axis=1, kind="stable")
    for track in order.T:
        row = free[units, track]
        feature = row.argmin(axis=1)
        took = np.flatnonzero(row[units, feature] < match)
        slot[took, feature[took]] = track[took]
        free[took, :, feature[took]] = np.inf
