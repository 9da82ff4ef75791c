"""The card of one neuron, held against the rows that it is made of."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hand_made_lake import RUN, write_lake
from readout_rows import LAYERS, NEURONS
from small_tables import tables

from tracelake import OpenLake
from tracelake.lake.errors import NotFoundError
from tracelake.queries.cards.neuron_card import NeuronGround, neuron_ground, read_neuron, strongest_neurons


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    lake = OpenLake(write_lake(tmp_path_factory.mktemp("neurons"), tables()).path)
    with lake.connect(locked=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def ground(connection) -> NeuronGround:
    return neuron_ground(connection, RUN)


def test_a_card_says_what_the_tables_hold(connection, ground: NeuronGround) -> None:
    card = read_neuron(connection, ground, 0, 1, n_problems=3)
    assert not card.missing() and dict(ground.about())["scaling"] == "plain"
    facts = dict(card.facts())
    rank = tables()["neuron_ranks"].filter(layer=0, neuron=1).row(0, named=True)
    assert facts["ranking"].startswith(
        f"place {rank['rank'] + 1} of {NEURONS} in the layer (score {rank['score']:.3g})"
    )
    effects = tables()["neuron_effects"].filter(layer=0)
    mine = effects.filter(neuron=1).row(0, named=True)
    place = 1 + (effects["mean_abs"] > mine["mean_abs"]).sum()
    assert f"mean size {mine['mean_abs']:.3g} (place {place} in the layer)" in facts["second-order effect"]
    assert facts["right minus wrong"].startswith(f"{mine['difference']:.3g}, p 0.5 after Holm")
    heads = tables()["second_order_heads"].filter(layer_from=0, neuron=1).sort("mean_abs", descending=True)
    top = heads.row(0, named=True)
    assert [one["mean_abs"] for one in card.heads] == heads["mean_abs"].to_list()
    assert facts["through heads"].startswith(f"{top['layer_to']}.{top['head']}: {top['mean']:.3g}")
    words = tables()["neuron_words"].filter(layer=0, neuron=1).sort("place")
    assert [one["word"] for one in card.words] == words["word"].to_list()
    assert "these 3 explain 0.60" in facts["words"] and "'word0' +0.50" in facts["words"]
    assert facts["first component"].startswith("0.90 of the squares of its 20 farthest effects")
    removed = tables()["effect_validation"].filter(layer=0, neuron=1).row(0, named=True)
    assert facts["removed from the model"].startswith(f"{removed['measured']:.3g} [-1, 1] less on the direction")


def test_the_problems_are_those_where_the_effect_is_largest(connection, ground: NeuronGround) -> None:
    scores = tables()["second_order_scores"].filter(pl.col("run_id") == RUN, layer=2, effect="second_order")
    by_sequence = dict(zip(scores["sequence_id"], (vector[7] for vector in scores["vector"]), strict=True))
    expected = sorted(by_sequence, key=lambda one: -abs(by_sequence[one]))[:3]
    found = read_neuron(connection, ground, 2, 7, n_problems=3).problems
    assert [one["sequence_id"] for one in found] == expected
    assert [one["effect"] for one in found] == pytest.approx([by_sequence[one] for one in expected], rel=1e-6)
    prompts = dict(tables()["sequences"].filter(run_id=RUN).select("sequence_id", "prompt").iter_rows())
    assert [one["prompt"] for one in found] == [prompts[one] for one in expected]


def test_what_is_missing_is_named_with_its_command(connection, ground: NeuronGround) -> None:
    unnamed = " ".join(read_neuron(connection, ground, 1, 5).missing())
    for command in ("second-order", "neuron-pca", "neuron-words", "neuron-ablation"):
        assert command in unnamed
    [last] = read_neuron(connection, ground, LAYERS - 1, 0).missing()
    assert "No head follows the last layer" in last


@pytest.mark.parametrize(("layer", "neuron", "words"), [(9, 0, "no neurons of layer 9"), (0, 12, "neurons 0 to 11")])
def test_a_neuron_that_does_not_exist(layer: int, neuron: int, words: str, connection, ground: NeuronGround) -> None:
    with pytest.raises(NotFoundError, match=words):
        read_neuron(connection, ground, layer, neuron)


def test_components_of_other_scores_stand_on_no_page(tmp_path: Path) -> None:
    """Effects on another direction were computed since: the older components are not theirs."""
    changed = tables()["neuron_effects"].with_columns(scores_id=pl.lit("second-order-2"))
    lake = OpenLake(write_lake(tmp_path, tables() | {"neuron_effects": changed}).path)
    with lake.connect(locked=True) as opened:
        card = read_neuron(opened, neuron_ground(opened, RUN), 0, 1)
    assert card.effect is not None
    assert not (card.component or card.words or card.validation or card.heads or card.problems)


def test_a_ranking_alone_makes_cards(tmp_path: Path) -> None:
    lake = OpenLake(write_lake(tmp_path, tables() | {"neuron_effects": tables()["neuron_effects"].clear()}).path)
    with lake.connect(locked=True) as opened:
        ground = neuron_ground(opened, RUN)
        assert strongest_neurons(opened, ground, 1) == [(layer, 0) for layer in range(LAYERS)]
        card = read_neuron(opened, ground, 0, 0)
    assert card.rank is not None and "--direction ID" in " ".join(card.missing())
