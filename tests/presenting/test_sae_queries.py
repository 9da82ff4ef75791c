"""Saved queries and the view of autoencoders against values computed by hand from the same rows."""

from collections.abc import Iterator

import pytest
from hand_made_lake import RUN, connection_to, frames
from sae_rows import N_FEATURES, SAE, sae_rows

from tracelake.lake.sql.duck import Connection
from tracelake.queries.saved_query import find


@pytest.fixture(scope="module")
def full() -> Iterator[Connection]:
    with connection_to(frames()) as connection:
        yield connection


def test_metrics_are_the_formulas_of_their_sums(full: Connection) -> None:
    row = full.sql("SELECT * FROM sae_metrics").to_dicts()[0]
    [sums] = sae_rows(RUN)["sae_evaluations"]
    wanted = {
        "l0": 2.0, "l1": 1.5, "fvu": 80 / (900 - 10_000 / 100), "explained_variance": 1 - 80 / 800, "mse": 0.8,
        "cossim": 0.95, "l2_ratio": 0.97, "relative_reconstruction_bias": 790 / 800, "frac_dead": 0.25,
        "frac_dense": 0.5, "ce_loss_without_sae": 1.0, "ce_loss_with_sae": 1.1, "ce_increase_nats": 0.1,
        "ce_loss_score": (250 - 55) / (250 - 50), "ce_loss_score_mean": (150 - 55) / (150 - 50),
        "kl_div_with_sae": 0.08, "kl_div_score": 1 - 4 / 200,
    }  # fmt: skip
    assert row["sae_id"] == sums["sae_id"] == SAE
    for name, value in wanted.items():
        assert row[name] == pytest.approx(value), name


def test_density_by_hand(full: Connection) -> None:
    n_tokens = full.sql("SELECT count(*) AS n FROM token_steps WHERE run_id = $run", {"run": RUN})["n"][0]
    rows = find("feature_density").run(full, run=RUN).to_dicts()
    assert sum(row["features"] for row in rows) == N_FEATURES - 1 and rows[0]["dead"] == 1
    assert all(10 ** row["log10_density"] <= 40 / n_tokens < 10 ** (row["log10_density"] + 0.25) for row in rows)


def test_cards_mark_the_token(full: Connection) -> None:
    rows = find("feature_card").run(full, run=RUN, feature=1)
    assert rows["text"].unique().to_list() == ["see[[ a]] here"] and rows["activation"].to_list() == [9.0, 8.0, 7.0]


def test_surprisal_and_correctness_in_plain_python(full: Connection) -> None:
    tables = frames()
    surprisal = {
        (r["sequence_id"], r["position"]): r["surprisal_bits"]
        for r in tables["token_steps"].iter_rows(named=True)
        if r["run_id"] == RUN and r["surprisal_bits"] is not None
    }
    mean = sum(surprisal.values()) / len(surprisal)
    active: dict[int, list[tuple[int, int]]] = {}
    for row in tables["sae_features"].iter_rows(named=True):
        active.setdefault(row["feature"], []).append((row["sequence_id"], row["position"]))
    for row in find("features_by_surprisal").run(full, run=RUN).iter_rows(named=True):
        values = [surprisal[key] for key in active[row["feature"]] if key in surprisal]
        assert row["n_active"] == len(values)
        assert row["difference_bits"] == pytest.approx(sum(values) / len(values) - mean, rel=1e-4)
    graded = {
        r["sequence_id"]: r
        for r in tables["sequences"].iter_rows(named=True)
        if r["run_id"] == RUN and r["correct"] is not None
    }
    n_right = sum(r["correct"] for r in graded.values())
    found = find("features_by_correctness").run(full, run=RUN, min_sequences=1).to_dicts()
    assert found
    for row in found:
        on = {s for s, p in active[row["feature"]] if s in graded and p >= graded[s]["n_prompt_tokens"]}
        right = sum(graded[s]["correct"] for s in on)
        assert row["share_right"] == pytest.approx(right / n_right)
        assert row["share_wrong"] == pytest.approx((len(on) - right) / (len(graded) - n_right))
