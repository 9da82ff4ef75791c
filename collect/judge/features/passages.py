"""Passages that a judge of features is shown: the tokens around an example, and on which of them the feature is active.

What a label is made from and what it is scored on come from different documents (the fold of the rule labels).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ....lake import Lake
from ....lake.sql.documents import HELD_OUT, SPANS
from ....lake.values import Json, Row

BEFORE, AFTER = 16, 4
"""Tokens around the example's own."""
MOST_POOL = 2_000
"""Held-out places among which passages without a feature are looked for."""
One = TypeVar("One")
Place = tuple[int, int]
"""A token: sequence and position."""

# `chosen` are the examples of the wanted features, and the pool, as feature -1: drawn tokens of held-out documents.
PLACES = f"""
WITH documents AS (
    SELECT sequence_id, {HELD_OUT} AS held_out FROM sequences WHERE run_id = $run
), examples AS (
    SELECT e.feature, e.kind, e.sequence_id, e.position, e.activation, d.held_out
    FROM feature_examples AS e JOIN documents AS d USING (sequence_id)
    WHERE e.run_id = $run AND e.sae_id = $sae AND e.analysis_id = $analysis
), wanted AS (
    SELECT DISTINCT feature, sequence_id, position, activation, held_out FROM examples
    WHERE feature IN (SELECT unnest($features)) AND kind != 'silent'
), pool AS (
    SELECT -1 AS feature, t.sequence_id, t.position, 0.0 AS activation, true AS held_out
    FROM token_steps AS t JOIN documents AS d USING (sequence_id)
    WHERE t.run_id = $run AND d.held_out AND t.position > 0
    ORDER BY (t.sequence_id * 7919 + t.position::BIGINT * 104729) % 1000003, t.sequence_id, t.position LIMIT {MOST_POOL}
), chosen AS (
    SELECT * FROM wanted UNION ALL SELECT * FROM pool
), {SPANS}
SELECT c.feature, c.sequence_id, c.position, c.activation, c.held_out,
    list(s.position ORDER BY s.position) AS positions,
    list(substring(s.whole, s.start + 1, s.stop - s.start) ORDER BY s.position) AS tokens
FROM chosen AS c JOIN spans AS s
    ON s.sequence_id = c.sequence_id AND s.position BETWEEN c.position - {BEFORE} AND c.position + {AFTER}
WHERE s.stop IS NOT NULL
GROUP BY ALL
ORDER BY ALL
"""
ACTIVE = """
SELECT feature, sequence_id, position FROM feature_activations
WHERE run_id = $run AND sae_id = $sae AND analysis_id = $analysis AND feature IN (SELECT unnest($features))
"""


@dataclass(frozen=True)
class Passage:
    """A stretch of one document, token by token."""

    sequence_id: int
    position: int
    """The example's own token."""
    tokens: tuple[str, ...]
    active: tuple[bool, ...]
    activation: float

    def text(self, marked: Sequence[bool] = ()) -> str:
        """The text; tokens that are marked stand between [[ and ]]."""
        if not marked:
            return "".join(self.tokens)
        return "".join(f"[[{token}]]" if mark else token for token, mark in zip(self.tokens, marked, strict=True))

    def marked_elsewhere(self, feature: int) -> tuple[bool, ...] | None:
        """As many marks as tokens are active, drawn among the others; None where these are too few."""
        others = [place for place, active in enumerate(self.active) if not active]
        if len(others) < sum(self.active):
            return None
        others.sort(key=lambda place: drawn("marks", feature, self.sequence_id, self.position, place))
        chosen = set(others[: sum(self.active)])
        return tuple(place in chosen for place in range(len(self.tokens)))


@dataclass(frozen=True)
class FeaturePassages:
    """Passages of one feature."""

    feature: int
    shown: tuple[Passage, ...]
    """With the feature, of documents that a label may be made from; strongest first."""
    held_out: tuple[Passage, ...]
    """With the feature, of the other documents; strongest first."""
    without: tuple[Passage, ...]
    """Of the other documents, without the feature on any of their tokens."""


def feature_passages(lake: Lake, named: Mapping[str, str], features: Sequence[int]) -> list[FeaturePassages]:
    """The passages of some features, in their order; `named` are run, sae and analysis of the feature tables."""
    given: Json = {**named, "features": list(features)}
    with lake.connect(run=named["run"], locked=True) as connection:
        places = connection.sql(PLACES, given).to_dicts()
        active: dict[int, set[Place]] = {feature: set() for feature in features}
        for feature, *place in connection.execute(ACTIVE, given).fetchall():
            active[feature].add((place[0], place[1]))
    by_feature: dict[int, list[Row]] = {}
    for row in places:
        by_feature.setdefault(row["feature"], []).append(row)
    pool = by_feature.pop(-1, [])
    return [_of_feature(feature, by_feature.get(feature, []), pool, active[feature]) for feature in features]


def _of_feature(feature: int, examples: list[Row], pool: list[Row], active: set[Place]) -> FeaturePassages:
    found = [(row["held_out"], _passage(row, active)) for row in examples]
    without = [one for one in (_passage(row, active) for row in pool) if not any(one.active)]
    return FeaturePassages(
        feature,
        tuple(_strongest_first(one for held_out, one in found if not held_out)),
        tuple(_strongest_first(one for held_out, one in found if held_out)),
        tuple(sorted(without, key=lambda one: drawn("without", feature, one.sequence_id, one.position))),
    )


def _passage(row: Row, active: set[Place]) -> Passage:
    flags = tuple((row["sequence_id"], position) in active for position in row["positions"])
    return Passage(row["sequence_id"], row["position"], tuple(row["tokens"]), flags, row["activation"])


def _strongest_first(passages: Iterable[Passage]) -> list[Passage]:
    return sorted(passages, key=lambda one: (-one.activation, one.sequence_id, one.position))


def spread(passages: Sequence[One], n: int) -> list[One]:
    """At most n, evenly spaced from the strongest to the weakest."""
    if len(passages) <= n:
        return list(passages)
    return [passages[round(i * (len(passages) - 1) / max(1, n - 1))] for i in range(n)]


def drawn(*names: object) -> str:
    """A fixed draw: what it sorts comes in an order that nothing else depends on."""
    return hashlib.sha256(repr(names).encode()).hexdigest()
