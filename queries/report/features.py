"""Cards of features on the page of a run that autoencoders were applied to; text from the lake is made visible."""

from typing import TYPE_CHECKING

from ...lake.values import Json, Row
from ..cards.feature_card import FeatureCard, labelled_features, read_card
from .facts import shown

if TYPE_CHECKING:
    from ...lake.sql.duck import Connection

N_FEATURES, N_TOP = 12, 5
"""Cards on a page, and strongest tokens on a card (one of every tenth of the activations besides)."""


def feature_section(connection: "Connection", run_id: str) -> list[Row]:
    """The features whose rule holds best on held-out documents; none where no autoencoder was applied to the run."""
    return [_card(read_card(connection, run_id, *one)) for one in labelled_features(connection, run_id, N_FEATURES)]


def _card(card: FeatureCard) -> Json:
    return {
        "feature": card.stats["feature"],
        "sae_id": shown(card.stats["sae_id"]),
        "label": shown(card.stats["label"] or card.stats["reason"] or ""),
        "facts": [(name, shown(words)) for name, words in card.facts()],
        "examples": [
            {"kind": one.kind, "activation": one.activation, "place": f"{one.sequence_id}:{one.position}"}
            | {"before": shown(one.before), "token": shown(one.token), "after": shown(one.after)}
            for one in card.marked(n_top=N_TOP)
        ],
    }
