"""One neuron on one page: how it ranks, what it does through later heads, in which words and problems, and if removed.

Everything stands on one analysis of effects, the newest: its scores, and the components, words and removals that were
computed from these scores. Effects on two directions never meet on one page.
"""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...lake.errors import NotFoundError

if TYPE_CHECKING:
    from ...lake.sql.duck import Connection

Row = dict[str, Any]
N_HEADS, N_WORDS, N_PROBLEMS = 6, 8, 5
_LATEST = "SELECT max_by(analysis_id, created_at) FROM analyses WHERE run_id = $run AND name = $name"
_STAND = """
SELECT e.analysis_id AS effects_id, any_value(e.scores_id) AS scores_id, any_value(a.parameters) AS parameters
FROM neuron_effects AS e LEFT JOIN analyses AS a ON a.run_id = e.run_id AND a.analysis_id = e.scores_id
WHERE e.run_id = $run AND e.analysis_id = $effects GROUP BY e.analysis_id
"""
_SIZES = """
SELECT layer, count(*) AS n FROM (
    SELECT layer, neuron FROM neuron_effects WHERE run_id = $run AND analysis_id = $effects
    UNION SELECT layer, neuron FROM neuron_ranks WHERE run_id = $run AND analysis_id = $ranks
) GROUP BY layer ORDER BY layer
"""
_STRONGEST = """
SELECT layer, neuron FROM neuron_effects WHERE run_id = $run AND analysis_id = $effects AND mean_abs > 0
QUALIFY row_number() OVER (PARTITION BY layer ORDER BY mean_abs DESC, neuron) <= $n
ORDER BY layer, mean_abs DESC, neuron
"""
_FIRST_RANKED = """
SELECT layer, neuron FROM neuron_ranks WHERE run_id = $run AND analysis_id = $ranks AND rank < $n ORDER BY layer, rank
"""
_RANK = """
SELECT *, count(*) OVER () AS n_neurons FROM neuron_ranks
WHERE run_id = $run AND analysis_id = $ranks AND layer = $layer QUALIFY neuron = $neuron
"""
_EFFECT = """
SELECT *, 1 + (SELECT count(*) FROM neuron_effects AS o WHERE o.run_id = $run AND o.analysis_id = $effects
    AND o.layer = $layer AND o.mean_abs > e.mean_abs) AS place
FROM neuron_effects AS e
WHERE run_id = $run AND analysis_id = $effects AND layer = $layer AND neuron = $neuron
"""
# Paths say in their parameters which scores they belong to.
_OF_THESE_SCORES = """
t.run_id = $run AND t.layer = $layer AND t.neuron = $neuron AND t.{paths} IN (
    SELECT analysis_id FROM analyses
    WHERE run_id = $run AND name = 'neuron-paths' AND parameters ->> 'scores' = $scores
)
"""
_NEWEST_OF_THESE = f"""
SELECT t.* FROM {{table}} AS t LEFT JOIN analyses AS a USING (run_id, analysis_id)
WHERE {_OF_THESE_SCORES.format(paths="paths_id")} ORDER BY a.created_at DESC LIMIT 1
"""
_WORDS = """
SELECT t.analysis_id, t.place, t.word, t.coefficient, t.explained FROM neuron_words AS t
WHERE t.run_id = $run AND t.layer = $layer AND t.neuron = $neuron AND t.analysis_id = (
    SELECT max_by(w.analysis_id, a.created_at)
    FROM neuron_words AS w JOIN analyses AS a USING (run_id, analysis_id)
    WHERE w.run_id = $run AND w.layer = $layer AND w.neuron = $neuron AND w.components_id = $components
)
ORDER BY t.place
"""
_HEADS = """
SELECT layer_to, head, mean, mean_abs FROM second_order_heads
WHERE run_id = $run AND analysis_id = $scores AND layer_from = $layer AND neuron = $neuron
ORDER BY mean_abs DESC, layer_to, head
"""
_PROBLEMS = """
SELECT
    e.sequence_id, e.vector[$neuron + 1] AS effect, s.correct, s.prompt, s.predicted_answer, s.answer
FROM second_order_scores AS e JOIN sequences AS s USING (run_id, sequence_id)
WHERE e.run_id = $run AND e.analysis_id = $scores AND e.layer = $layer AND e.effect = 'second_order'
ORDER BY abs(e.vector[$neuron + 1]) DESC, e.sequence_id LIMIT $n
"""


@dataclass(frozen=True)
class NeuronGround:
    """What the cards of a run stand on: ids of its newest effects and ranking, and how many neurons its layers have."""

    run_id: str
    effects_id: str | None = None
    scores_id: str | None = None
    ranks_id: str | None = None
    parameters: Row = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)

    @property
    def last_layer(self) -> int:
        """The layer that no head follows."""
        return max(self.sizes)

    def about(self) -> list[tuple[str, str]]:
        """Which effects these are."""
        names = (("direction", "direction"), ("at", "at the end of the"), ("scaling", "scaling"))
        return [(words, str(self.parameters[name])) for name, words in names if self.parameters.get(name) is not None]


@dataclass(frozen=True)
class NeuronCard:
    """Everything that is stored of one neuron; None and empty where it was not computed."""

    ground: NeuronGround
    layer: int
    neuron: int
    rank: Row | None
    effect: Row | None
    component: Row | None
    validation: Row | None
    words: list[Row]
    heads: list[Row]
    problems: list[Row]

    def facts(self) -> list[tuple[str, str]]:
        """What is known of the neuron, by name."""
        said = [
            ("ranking", self.rank and _ranking(self.rank)),
            ("second-order effect", self.effect and _size(self.effect)),
            ("right minus wrong", self.effect and _difference(self.effect)),
            ("direct effect", self.effect and _number(self.effect["direct_effect"])),
            ("through heads", ", ".join(map(_head, self.heads[:N_HEADS]))),
            ("first component", self.component and _component(self.component)),
            ("words", _words(self.words)),
            ("removed from the model", self.validation and _validation(self.validation)),
        ]
        return [(name, words) for name, words in said if words]

    def missing(self) -> list[str]:
        """What was not computed, each with the command that does."""
        run = self.ground.run_id
        absent = []
        if self.rank is None:
            absent.append(f"No ranking: lake experiment neurons {run} makes it.")
        if self.effect is None:
            absent.append(f"No second-order effect: lake experiment second-order {run} --direction ID makes it.")
        elif self.layer == self.ground.last_layer:
            return [*absent, "No head follows the last layer: its neurons have no second-order effect, hence no words."]
        else:
            direction = self.ground.parameters.get("direction", "ID")
            if not self.heads:
                command = f"lake experiment second-order {run} --direction {direction} --by head"
                absent.append(f"Not by head: {command} does so for the strongest of each layer (--top).")
            for name, stored, command in (
                ("first component", self.component, "neuron-pca"),
                ("words", self.words, "neuron-words"),
                ("removal", self.validation, "neuron-ablation"),
            ):
                if not stored:
                    absent.append(
                        f"No {name}: lake analyze {command} {run} --neurons N takes the N strongest of each layer, or "
                        "those that a file names."
                    )
        return absent


def neuron_ground(connection: "Connection", run_id: str) -> NeuronGround:
    """The newest effects and ranking of a run."""
    effects, ranks = (
        connection.execute(_LATEST, {"run": run_id, "name": name}).fetchall()[0][0]
        for name in ("neuron-effects", "neurons")
    )
    stand = connection.sql(_STAND, {"run": run_id, "effects": effects}).to_dicts()
    sizes = dict(connection.execute(_SIZES, {"run": run_id, "effects": effects, "ranks": ranks}).fetchall())
    found = NeuronGround(run_id, ranks_id=ranks, sizes=sizes)
    if not stand:
        return found
    [one] = stand
    parameters = json.loads(one["parameters"] or "{}")
    return NeuronGround(run_id, one["effects_id"], one["scores_id"], ranks, parameters, sizes)


def strongest_neurons(connection: "Connection", ground: NeuronGround, n: int) -> list[tuple[int, int]]:
    """Layer and number of the n neurons of each layer with the largest effects; by rank where there are no effects."""
    if ground.effects_id is None:
        given: Row = {"run": ground.run_id, "ranks": ground.ranks_id, "n": n}
        return connection.execute(_FIRST_RANKED, given).fetchall()
    return connection.execute(_STRONGEST, {"run": ground.run_id, "effects": ground.effects_id, "n": n}).fetchall()


def read_neuron(
    connection: "Connection", ground: NeuronGround, layer: int, neuron: int, n_problems: int = N_PROBLEMS
) -> NeuronCard:
    """The card; NotFoundError for a layer or neuron that the run's tables do not have."""
    if layer not in ground.sizes:
        have = ", ".join(map(str, ground.sizes)) or "none"
        raise NotFoundError(f"Run {ground.run_id} has no neurons of layer {layer}: its layers are {have}.")
    if not 0 <= neuron < ground.sizes[layer]:
        raise NotFoundError(f"Layer {layer} has neurons 0 to {ground.sizes[layer] - 1}, not {neuron}.")
    key: Row = {"run": ground.run_id, "layer": layer, "neuron": neuron}
    scores = {**key, "scores": ground.scores_id}

    def rows(sql: str, values: Row) -> list[Row]:
        return connection.sql(sql, values).to_dicts()

    component = _one(rows(_NEWEST_OF_THESE.format(table="neuron_components"), scores))
    named = {**key, "components": component and component["analysis_id"]}
    return NeuronCard(
        ground, layer, neuron,
        rank=_one(rows(_RANK, {**key, "ranks": ground.ranks_id})),
        effect=_one(rows(_EFFECT, {**key, "effects": ground.effects_id})),
        component=component,
        validation=_one(rows(_NEWEST_OF_THESE.format(table="effect_validation"), scores)),
        words=rows(_WORDS, named) if component else [],
        heads=rows(_HEADS, scores),
        problems=rows(_PROBLEMS, {**scores, "n": n_problems}),
    )  # fmt: skip


def _one(rows: list[Row]) -> Row | None:
    return rows[0] if rows else None


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}"


def _interval(row: Row) -> str:
    return "" if row["ci_low"] is None else f" [{row['ci_low']:.3g}, {row['ci_high']:.3g}]"


def _ranking(row: Row) -> str:
    criteria = f"mean size {_number(row['mean_abs'])}, variance {_number(row['variance'])}"
    written = f"mean size x length of what it writes {_number(row['direct_effect'])}"
    place = f"place {row['rank'] + 1:,} of {row['n_neurons']:,} in the layer (score {_number(row['score'])})"
    return f"{place}: {criteria}, {written}; {row['n_prompts']:,} prompts"


def _size(row: Row) -> str:
    rare = f", significant in {row['share_significant']:.1%} of them" if row["share_significant"] is not None else ""
    return (
        f"mean {_number(row['mean'])}, mean size {_number(row['mean_abs'])} (place {row['place']:,} in the layer), "
        f"standard deviation {_number(row['sd'])} over {row['n_sequences']:,} sequences{rare}"
    )


def _difference(row: Row) -> str:
    if row["difference"] is None:
        return f"not compared: {row['reason'] or 'no answers were graded'}"
    means = f"right {_number(row['mean_right'])}, wrong {_number(row['mean_wrong'])}"
    return f"{_number(row['difference'])}{_interval(row)}, p {_number(row['p_holm'])} after Holm ({means})"


def _head(row: Row) -> str:
    return f"{row['layer_to']}.{row['head']}: {row['mean']:.3g} (mean size {row['mean_abs']:.3g})"


def _component(row: Row) -> str:
    if row["share"] is None:
        return f"none: {row['reason']}"
    unseen = "" if row["share_test"] is None else f", {row['share_test']:.2f} of those of unseen problems"
    toward = "" if row["onto_direction"] is None else f"; cosine with the direction {row['onto_direction']:.2f}"
    return f"{row['share']:.2f} of the squares of its {row['top_k']:,} farthest effects{unseen}{toward}"


def _words(rows: list[Row]) -> str:
    if not rows:
        return ""
    shown = rows[:N_WORDS]
    listed = "  ".join(f"{row['word']!r} {row['coefficient']:+.2f}" for row in shown)
    return f"{listed} (these {len(shown)} explain {shown[-1]['explained']:.2f} of the component)"


def _validation(row: Row) -> str:
    if row["measured"] is None:
        return f"not measured: {row['reason']}"
    predicted = f"{_number(row['predicted_second_order'])} second order, {_number(row['predicted_direct'])} direct"
    agree = f"{_number(row['correlation_second_order'])} alone, {_number(row['correlation'])} with the direct effect"
    return (
        f"{_number(row['measured'])}{_interval(row)} less on the direction; predicted {predicted}; correlation over "
        f"{row['n_problems']:,} problems {agree}"
    )
