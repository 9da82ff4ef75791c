"""Cards of neurons on the page of a run whose second-order effects or ranking are stored; text is made visible."""

from typing import TYPE_CHECKING

from ...lake.values import Json
from ..cards.neuron_card import NeuronCard, neuron_ground, read_neuron, strongest_neurons
from .facts import shown
from .health import outcome

if TYPE_CHECKING:
    from ...lake.sql.duck import Connection

N_CARDS, MOST_OF_A_LAYER = 24, 3
"""Cards on a page, dealt evenly to the layers, and the most of one layer."""


def neuron_section(connection: "Connection", run_id: str) -> Json:
    """The strongest neurons of each layer; without cards where nothing was computed."""
    ground = neuron_ground(connection, run_id)
    of_each = min(MOST_OF_A_LAYER, max(1, N_CARDS // max(1, len(ground.sizes))))
    chosen = strongest_neurons(connection, ground, of_each)
    return {
        "about": [(name, shown(value)) for name, value in ground.about()],
        "of_each": of_each,
        "by_effect": ground.effects_id is not None,
        "cards": [_card(read_neuron(connection, ground, *one)) for one in chosen],
    }


def _card(card: NeuronCard) -> Json:
    size = card.effect["mean_abs"] if card.effect else None
    return {
        "layer": card.layer,
        "neuron": card.neuron,
        "title": "" if size is None else f"mean size {size:.3g}",
        "facts": [(name, shown(words)) for name, words in card.facts()],
        "missing": [shown(sentence) for sentence in card.missing()],
        "problems": [
            {"effect": one["effect"], "sequence": one["sequence_id"], "outcome": outcome(one["correct"])}
            | {"answered": shown(one["predicted_answer"] or ""), "prompt": shown(one["prompt"] or "")}
            for one in card.problems
        ],
    }
