"""The saved queries that report and dashboard draw, against numpy and polars over the same rows."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from hand_made_lake import OTHER, RUN, connection_to, frames, typed
from scipy.stats import binomtest

from tracelake.lake.sql.duck import Connection
from tracelake.queries.saved_query import find

WALL_MS, SEQUENCE = 1_500.0, 0


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    """The synthetic lake, with the time that passed and edges of two heads."""
    found = dict(frames())
    operations = found["operations"]
    wall = operations.filter(name="write").with_columns(name=pl.lit("wall"), total_ms=pl.lit(WALL_MS))
    found["operations"] = pl.concat([operations, wall])
    edges = found["attention_edges"]
    second = edges.with_columns(head=pl.lit(1, pl.Int16), weight=pl.col("weight") / 2)
    found["attention_edges"] = typed("attention_edges", pl.concat([edges, second]).sort("position", "head", "key"))
    return found


@pytest.fixture(scope="module")
def connection(tables: dict[str, pl.DataFrame]) -> Iterator[Connection]:
    with connection_to(tables) as connection:
        yield connection


def test_time_accounts_add_up(connection: Connection) -> None:
    rows = find("time_accounts").run(connection, run=RUN)
    total = dict(rows.select("operation", "total_s").iter_rows())
    # The fixture, in ms, times 1 + segment / 10: prefill 140, decode 820 (summarise 190), write 75 (fsync 30).
    grown = sum(1 + 0.1 * segment for segment in range(8)) / 1000
    assert total["decode"] == pytest.approx(820 * grown)
    assert total["rest of decode"] == pytest.approx((820 - 190) * grown)
    assert total["rest of write"] == pytest.approx((75 - 30) * grown)
    assert total["rest of the run"] == pytest.approx(8 * WALL_MS / 1000 - (140 + 820 + 75) * grown)
    tops = rows.filter(part_of="the run")["total_s"].sum()
    assert tops == pytest.approx(8 * WALL_MS / 1000) and "wall" not in total


@pytest.mark.parametrize("head", [None, 0, 1])
def test_prompt_attention_is_the_mean_over_heads(head: int | None, connection: Connection, tables) -> None:
    edges = tables["attention_edges"].filter(run_id=RUN, sequence_id=SEQUENCE)
    chosen = edges if head is None else edges.filter(head=head)
    n = edges["position"].max() + 1
    expected = np.zeros((n, n))
    for row in chosen.iter_rows(named=True):
        expected[row["position"], row["key"]] += row["weight"] / chosen["head"].n_unique()
    rows = find("prompt_attention").run(connection, run=RUN, **({} if head is None else {"head": head}))
    found = np.zeros((n, n))
    found[rows["position"].to_numpy(), rows["key"].to_numpy()] = rows["weight"].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert set(rows["tokens_per_cell"]) == {1} and rows["query_token"].null_count() == 0


def test_prompt_attention_of_a_long_prompt_is_drawn_in_cells(connection: Connection, tables) -> None:
    cells = 7
    rows = find("prompt_attention").run(connection, run=RUN, cells=cells, head=0)
    edges = tables["attention_edges"].filter(run_id=RUN, sequence_id=SEQUENCE, head=0)
    n = edges["position"].max() + 1
    full = np.zeros((n, n))
    full[edges["position"].to_numpy(), edges["key"].to_numpy()] = edges["weight"].to_numpy()
    size = -(-n // cells)
    for row in rows.iter_rows(named=True):
        block = full[row["position"] : row["position"] + size, row["key"] : row["key"] + size]
        assert row["weight"] == pytest.approx(block.sum() / len(block), rel=1e-5)
    assert rows["position"].n_unique() == -(-n // size) <= cells


@pytest.mark.parametrize("measure", ["entropy_bits", "surprisal_bits", "margin"])
def test_distributions_are_histograms_of_each_run(measure: str, connection: Connection, tables) -> None:
    bins = 12
    rows = find("distribution_comparison").run(connection, run=RUN, other=OTHER, measure=measure, bins=bins)
    generated = tables["token_steps"].filter(pl.col("step").is_not_null() & pl.col("run_id").is_in([RUN, OTHER]))
    width = np.quantile(generated[measure].cast(pl.Float64).to_numpy(), 0.995) / bins
    for run in (RUN, OTHER):
        values = generated.filter(run_id=run)[measure].cast(pl.Float64).to_numpy()
        counts = np.bincount(np.minimum(values // width, bins - 1).astype(int), minlength=bins)
        found = rows.filter(of_run=run)
        cells = np.floor(found["value"].to_numpy() / width).astype(int)
        assert counts[cells].tolist() == found["tokens"].to_list() and counts.sum() == found["tokens"].sum()
        np.testing.assert_allclose(found["share"].to_numpy(), counts[cells] / len(values))
    assert rows["of_run"][0] == RUN


def test_flags_of_two_runs(connection: Connection) -> None:
    rows = find("health_comparison").run(connection, run=RUN, other=OTHER, profile="v0.3")
    for run in (RUN, OTHER):
        verdicts = find("health").run(connection, run=run, profile="v0.3")
        for flag, column in (("repetition loop", "repetition_loop"), ("attention collapse", "attention_collapse")):
            judged = verdicts[column].drop_nulls()
            found = rows.filter(of_run=run, flag=flag)
            assert found.height == bool(len(judged))
            if len(judged):
                interval = binomtest(int(judged.sum()), len(judged)).proportion_ci(method="wilson")
                assert found["share"].item() == pytest.approx(judged.mean())
                assert found["share_low"].item() == pytest.approx(interval.low, abs=1e-4)
                assert found["share_high"].item() == pytest.approx(interval.high, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "column"), [("norm_map", "l2_norm"), ("cosine_map", "cos_prev_layer"), ("delta_map", "delta_norm")]
)
def test_maps_hold_the_states_beside_their_tokens(name: str, column: str, connection: Connection, tables) -> None:
    rows = find(name).run(connection, run=RUN, sequence=3)
    key = {"run_id": RUN, "sequence_id": 3}
    states = tables["layer_summaries"].filter(**key, site="resid_post").drop_nulls(column).sort("layer", "position")
    tokens = dict(tables["token_steps"].filter(**key).select("position", "token").iter_rows())
    assert rows.select("position", "layer", column).rows() == states.select("position", "layer", column).rows()
    assert rows["token"].to_list() == [tokens[p] for p in rows["position"]]
    assert rows["next_token"].to_list() == [tokens.get(p + 1) for p in rows["position"]]


def test_the_trace_has_both_quantities(connection: Connection, tables) -> None:
    rows = find("uncertainty_trace").run(connection, run=RUN, sequence=3)
    tokens = tables["token_steps"].filter(run_id=RUN, sequence_id=3).drop_nulls("entropy_bits").sort("position")
    for quantity in ("entropy", "surprisal"):
        found = rows.filter(quantity=quantity)
        assert found["position"].to_list() == tokens["position"].to_list()
        np.testing.assert_array_equal(found["bits"].to_numpy(), tokens[f"{quantity}_bits"].to_numpy())


def test_weights_by_head(connection: Connection, tables) -> None:
    rows = find("attention_weight_by_head").run(connection, run=RUN)
    heads = tables["head_summaries"].filter(pl.col("n_keys") >= 2, run_id=RUN)
    expected = heads.group_by("layer", "head").agg(pl.col("max_weight").cast(pl.Float64).mean()).sort("layer", "head")
    np.testing.assert_allclose(rows["mean_max_weight"].to_numpy(), expected["max_weight"].to_numpy(), rtol=1e-6)
    assert rows["tokens"].sum() == heads.height
