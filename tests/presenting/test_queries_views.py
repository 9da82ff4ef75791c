"""Derived views: what pairs with what, and that no shift by one goes unseen."""

from collections.abc import Iterator

import duckdb
import polars as pl
import pytest
from hand_made_lake import ENCODER, PROMPTS, RUN, SAMPLES, connection_to, frames, without
from polars.testing import assert_frame_equal

from tracelake.lake.schema import TABLES
from tracelake.lake.sql.duck import Connection
from tracelake.queries.derived_views import view_definitions, views
from tracelake.queries.saved_query import one_select

KEY = ["run_id", "sequence_id", "position"]


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    with connection_to(frames()) as connection:
        yield connection


def predictions(connection: Connection, where: str = "true") -> pl.DataFrame:
    return connection.sql(f"SELECT * FROM predictions WHERE {where} ORDER BY ALL")


def shifted(tokens: pl.DataFrame, by: int) -> pl.DataFrame:
    """Tokens of decoder-only runs, moved to the row of the state `by` positions before."""
    rows = tokens.filter((pl.col("position") > 0) & (pl.col("run_id") != ENCODER))
    return rows.select("run_id", "sequence_id", pl.col("position") - by, "token_id", "surprisal_bits")


def pairs_by_hand(by: int) -> pl.DataFrame:
    states = frames()["layer_summaries"].select(*KEY, "layer", "site", "l2_norm")
    return states.join(shifted(frames()["token_steps"], by), on=KEY).sort(KEY + ["layer", "site"])


def test_predictions_pair_the_state_with_the_token_after_it(connection: Connection) -> None:
    found = predictions(connection, f"run_id <> '{ENCODER}'").sort(KEY + ["layer", "site"])
    renamed = {"token_id": "next_token_id", "surprisal_bits": "next_surprisal_bits"}
    found = found.select(*KEY, "layer", "site", "l2_norm", **renamed)
    assert_frame_equal(found, pairs_by_hand(by=1))
    # The check above must be able to fail: the plain join, and a shift the other way, are different frames.
    for wrong in (0, -1, 2):
        assert not found.equals(pairs_by_hand(by=wrong))


def test_predictions_by_one_explicit_pair(connection: Connection) -> None:
    token = frames()["token_steps"].row(
        by_predicate=(pl.col("run_id") == RUN) & (pl.col("sequence_id") == 5) & (pl.col("position") == 40), named=True
    )
    where = f"run_id = '{RUN}' AND sequence_id = 5 AND position = 39 AND layer = 3"
    row = predictions(connection, where).row(0, named=True)
    assert row["next_position"] == 40
    assert row["next_step"] == token["step"]
    assert (row["next_token"], row["next_surprisal_bits"]) == (token["token"], token["surprisal_bits"])


def test_the_last_prompt_token_predicts_step_zero(connection: Connection) -> None:
    rows = predictions(connection, f"run_id = '{RUN}' AND next_step = 0 AND site = 'final_norm'")
    joined = rows.join(frames()["sequences"], on=["run_id", "sequence_id"])
    assert rows.height == 128
    assert (joined["position"] == joined["n_prompt_tokens"] - 1).all()


def test_the_last_token_predicts_nothing(connection: Connection) -> None:
    last = frames()["token_steps"].group_by("run_id", "sequence_id").agg(pl.col("position").max())
    assert predictions(connection).join(last, on=KEY, how="semi").height == 0


def test_encoder_tokens_predict_nothing(connection: Connection) -> None:
    rows = predictions(connection, f"run_id = '{ENCODER}'")
    # Encoder tokens 0-3, start token 4, generated 5-7: only 4, 5 and 6 predict something.
    assert rows["position"].to_list() == [4, 5, 6]
    assert rows["next_token"].to_list() == ["t5", "t6", "t7"]
    tokens = connection.sql(f"SELECT position FROM next_tokens WHERE run_id = '{ENCODER}' ORDER BY 1")
    assert tokens["position"].to_list() == [4, 5, 6]


def test_pairs_do_not_need_the_distribution_columns(connection: Connection) -> None:
    tables = dict(frames())
    unkept = ["logprob", "surprisal_bits", "entropy_bits", "rank", "top1_prob", "margin", "top10_mass"]
    tables["token_steps"] = tables["token_steps"].with_columns(
        pl.lit(None).cast(tables["token_steps"].schema[name]).alias(name) for name in unkept
    )
    with connection_to(tables) as bare:
        assert predictions(bare).height == predictions(connection).height


def test_generated_tokens_and_answers(connection: Connection) -> None:
    generated = connection.sql("SELECT count(*) FROM generated_tokens").item()
    assert generated == frames()["token_steps"]["step"].count()
    answers = connection.sql("SELECT * FROM answers")
    assert answers.height == frames()["sequences"]["correct"].count()
    assert set(answers["level"]) == {"1", "2", "3"}
    assert set(answers["outcome"]) == {"correct", "wrong"}


def test_metadata_that_is_not_json_has_no_level() -> None:
    tables = dict(frames())
    tables["sequences"] = tables["sequences"].with_columns(metadata=pl.lit("{not json"))
    with connection_to(tables) as connection:
        assert connection.sql("SELECT DISTINCT level FROM answers").rows() == [(None,)]


def test_each_file_is_one_select_without_parameters() -> None:
    with duckdb.connect() as parser:
        for view in views().values():
            statement = one_select(parser, view.text, view.file)
            assert not statement.named_parameters
            assert statement.query.strip().rstrip(";").endswith(view.sql) and view.sql.startswith(("SELECT", "WITH"))


def test_views_bind_on_an_empty_lake() -> None:
    with connection_to(without(*TABLES)) as connection:
        for view in views():
            constant = view == "health_profiles"  # thresholds, not observations
            assert (connection.sql(f"FROM {view}").height > 0) is constant, view


def test_comments_name_real_columns(connection: Connection) -> None:
    for view in views().values():
        columns = set(connection.sql(f"FROM {view.name}").columns)
        assert set(view.columns) <= columns, view.name
    comments = dict(connection.sql("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").rows())
    assert comments["predictions"].startswith("The states at `position` paired with")
    assert [name for name, _, _ in view_definitions()] == sorted(views())


def test_positions_and_steps_obey_the_definitions() -> None:
    joined = frames()["token_steps"].join(frames()["sequences"], on=["run_id", "sequence_id"])
    steps = joined.filter(pl.col("step").is_not_null())
    assert steps.select((pl.col("position") - pl.col("n_prompt_tokens") == pl.col("step")).all()).item()
    assert joined.filter(pl.col("position") == 0)["surprisal_bits"].null_count() == PROMPTS * (SAMPLES + 1) + 1
