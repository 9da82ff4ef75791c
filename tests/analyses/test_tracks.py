"""`lake analyze links` and `tracks` on a lake: equal to a plain tracker over its features, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from answered_lake import ANSWERS, N_GENERATED, N_PROMPT, READ, add_answers, answered_lake
from plain_tracker import plain_metrics, plain_tracks
from sae_lakes import lake_of

from tracelake.analysis.question import ask, question_named
from tracelake.analysis.sae.folder import load_sae
from tracelake.analysis.tracks.metrics import NAMES
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError, UsageError


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return answered_lake(tmp_path_factory.mktemp("lake"))


def follow(lake: Lake, run: str = ANSWERS, **options: Any) -> tuple[str, dict[str, pl.DataFrame]]:
    answer = ask(lake, run, question_named("tracks", **options))
    mine = pl.col("analysis_id") == answer.analysis_id
    tables = ("tracks", "track_points", "track_metrics")
    return answer.analysis_id, {name: lake.scan(name, run).filter(mine).collect() for name in tables}


def stored(lake: Lake, run: str) -> tuple[list[str], list[np.ndarray], dict[str, pl.DataFrame]]:
    """Autoencoders by layer, their decoders, and the stored features of each."""
    ids = lake.scan("saes").collect().sort("layer")["sae_id"].to_list()
    decoders = [load_sae(lake, one).weights["W_dec"].numpy().astype(np.float64) for one in ids]
    rows = lake.scan("sae_features", run).collect()
    return ids, decoders, {one: rows.filter(sae_id=one) for one in ids}


def plain_unit(features: dict[str, pl.DataFrame], wanted: pl.Expr, means: bool) -> list[list[tuple[int, float, float]]]:
    """The features of one unit, layer by layer, its positions pooled by the largest activation."""
    layers = []
    for rows in features.values():
        mean = dict(rows.group_by("feature").agg(pl.col("activation").cast(pl.Float64).mean()).iter_rows())
        best: dict[int, tuple[float, float]] = {}
        for row in rows.filter(wanted).sort("position").iter_rows(named=True):
            place = (row["position"] - N_PROMPT) / N_GENERATED
            if row["activation"] > best.get(row["feature"], (0.0, 0.0))[0]:
                best[row["feature"]] = (row["activation"], place)
        layers.append([(f, a / mean[f] if means else a, p) for f, (a, p) in best.items()])
    return layers


RULES = {"weights": (0.6, 0.2, 0.2), "match": 0.5, "birth": 0.5, "death": 0.0, "gap": 0, "method": "hungarian"}


def test_tokens_equal_the_plain_tracker(lake: Lake) -> None:
    _, decoders, features = stored(lake, ANSWERS)
    _, tables = follow(lake)
    own = tables["track_metrics"].filter(pl.col("over").is_null())
    assert own["position"].min() == N_PROMPT and own["position"].max() == N_PROMPT + N_GENERATED - 1
    for sequence, position in ((0, 3), (7, 5), (100, 7)):
        key = (pl.col("sequence_id") == sequence) & (pl.col("position") == position)
        unit = [[(f, a, 0.0) for f, a, _ in layer] for layer in plain_unit(features, key, means=True)]
        tracks = plain_tracks(unit, decoders, RULES)
        points = tables["track_points"].filter(key).sort("track", "layer")
        wanted = [(n, *row) for n, t in enumerate(tracks) for row in zip(t["layers"], t["features"], strict=True)]
        assert points.select("track", "layer", "feature").rows() == wanted
        np.testing.assert_allclose(points["activation"], [a for t in tracks for a in t["activations"]], rtol=1e-5)
        [row] = own.filter(key).to_dicts()
        for name, value in plain_metrics(tracks, 2).items():
            assert row[name] == pytest.approx(value, abs=1e-6), name
        deaths = [t["layers"][-1] if t["dead"] else None for t in tracks]
        assert tables["tracks"].filter(key).sort("track")["death_layer"].to_list() == deaths


def test_pooled_source_profile_equals_the_plain_tracker(lake: Lake) -> None:
    _, decoders, features = stored(lake, ANSWERS)
    _, tables = follow(lake, profile="source", top_k=6)
    for sequence in (0, 11):
        wanted = (pl.col("sequence_id") == sequence) & (pl.col("position") >= N_PROMPT)
        layers = []
        for layer in plain_unit(features, wanted, means=False):
            kept = sorted(layer, key=lambda one: (-one[1], one[0]))[:6]
            silent = [f for f in range(32) if f not in {one[0] for one in layer}]
            layers.append(kept + [(f, 0.0, 0.0) for f in silent[: 6 - len(kept)]])
        tracks = plain_tracks(layers, decoders, RULES | {"weights": (0.6, 0.2, 0.0)})
        [row] = tables["track_metrics"].filter(sequence_id=sequence).to_dicts()
        assert row["position"] is None and row["over"] is None
        for name, value in plain_metrics(tracks, 2).items():
            assert row[name] == pytest.approx(value, abs=1e-6), name


def test_pooled_places_and_the_last_token(lake: Lake) -> None:
    _, decoders, features = stored(lake, ANSWERS)
    wanted = (pl.col("sequence_id") == 4) & (pl.col("position") >= N_PROMPT)
    unit = plain_unit(features, wanted, means=True)
    tracks = plain_tracks(unit, decoders, RULES | {"weights": (0.3, 0.1, 0.6)})
    _, tables = follow(lake, unit="sequence", weights="0.3,0.1,0.6")
    points = tables["track_points"].filter(sequence_id=4).sort("track", "layer")
    assert points["feature"].to_list() == [f for t in tracks for f in t["features"]]
    costs = [c for t in tracks for c in t["costs"]]
    assert points["cost"].is_null().to_list() == [c is None for c in costs]
    np.testing.assert_allclose(points["cost"].drop_nulls(), [c for c in costs if c is not None], rtol=1e-5)
    _, last = follow(lake, unit="sequence", pool="last")
    _, tokens = follow(lake)
    key = ["sequence_id", "track", "layer", "feature", "activation"]
    final = tokens["track_points"].filter(position=N_PROMPT + N_GENERATED - 1).select(key).sort(key)
    assert last["track_points"].select(key).sort(key).equals(final)


def test_summaries_over_tokens(lake: Lake) -> None:
    _, tables = follow(lake)
    rows = tables["track_metrics"]
    own = rows.filter(pl.col("over").is_null() & (pl.col("sequence_id") == 3)).sort("position")
    for over, value in (("mean", pl.all().mean()), ("max", pl.all().max()), ("last", pl.all().last())):
        [row] = rows.filter(sequence_id=3, over=over).select(NAMES).rows()
        assert row == pytest.approx(own.select(NAMES).select(value).row(0)), over


def test_reconstruction_errors_again_in_numpy(lake: Lake) -> None:
    ids, _, _ = stored(lake, ANSWERS)
    _, tables = follow(lake)
    [row] = tables["track_metrics"].filter(sequence_id=9, position=6).to_dicts()
    errors = []
    for layer, sae_id in enumerate(ids):
        import torch

        for keys, vectors in lake.vectors(layer, "resid_post", ANSWERS):
            at = (keys["sequence_id"].to_numpy() == 9) & (keys["position"].to_numpy() == 6)
            if at.any():
                x = torch.from_numpy(np.ascontiguousarray(vectors[at]))
                errors.append(float((x - load_sae(lake, sae_id).reconstruct(x)).square().mean()))
    assert row["error_mean"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert row["error_growth"] == pytest.approx(errors[1] - errors[0], rel=1e-3)
    assert row["error_late_ratio"] is None and "fewer than 12 layers" in row["reason"]


def test_links_are_the_nearest_decoder_rows(lake: Lake) -> None:
    ids, decoders, _ = stored(lake, ANSWERS)
    answer = ask(lake, "saes", question_named("links", partners=3))
    rows = lake.scan("feature_links").filter(pl.col("analysis_id") == answer.analysis_id).collect()
    a, b = (d / np.linalg.norm(d, axis=1, keepdims=True) for d in decoders)
    cosines = a @ b.T
    assert rows.height == 32 * 3 and set(rows["sae_id"]) == {ids[0]} and set(rows["next_sae_id"]) == {ids[1]}
    for feature in (0, 13, 31):
        mine = rows.filter(feature=feature).sort("place")
        assert mine["next_feature"].to_list() == np.argsort(-cosines[feature], kind="stable")[:3].tolist()
        np.testing.assert_allclose(mine["cosine"], np.sort(cosines[feature])[::-1][:3], atol=1e-12)


def test_the_same_question_is_looked_up(lake: Lake) -> None:
    first = ask(lake, ANSWERS, question_named("tracks", method="none", metrics_only=True))
    again = ask(lake, ANSWERS, question_named("tracks", saes="saes", method="none", metrics_only=True))
    assert first.computed and not again.computed and first.analysis_id == again.analysis_id
    assert set(first.n_rows) == {"analyses", "track_metrics"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "1,2"}, "three numbers"),
        ({"weights": "1,2,nan"}, "three numbers"),
        ({"top_k": 0}, "--top-k is at least 1"),
        ({"gap": -1}, "--gap is at least 0"),
        ({"match": float("nan")}, "--match"),
        ({"pool": "last"}, "--unit sequence"),
        ({"saes": " , "}, "names no autoencoder"),
        ({"permute_decoder": -3}, "--permute-decoder"),
    ],
)
def test_options_that_cannot_be(lake: Lake, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ask(lake, ANSWERS, question_named("tracks", **options))


def test_what_is_not_there_is_named(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no autoencoder and no run 'sea'"):
        ask(lake, ANSWERS, question_named("tracks", saes="sea"))
    with pytest.raises(NotFoundError, match="made no autoencoder"):
        ask(lake, ANSWERS, question_named("tracks", saes=READ))
    with pytest.raises(ConfigError, match="none at --positions generated.*--positions all"):
        ask(lake, READ, question_named("tracks"))
    assert follow(lake, READ, positions="all")[1]["tracks"].height > 0
    add_answers(lake, "bare-01", n_prompts=20)
    with pytest.raises(NotFoundError, match="stores no features.*lake sae features"):
        ask(lake, "bare-01", question_named("tracks"))
    with pytest.raises(NotFoundError, match="stores no features of .*lake sae features .* --run bare-01"):
        ask(lake, "bare-01", question_named("tracks", saes="saes"))
    with pytest.raises(NotFoundError, match="stores no features"):
        ask(lake_of(tmp_path), READ, question_named("tracks"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(0, "resid_post"), (1, "mlp_out")], "one site"),
        ([(0, "resid_post"), (2, "resid_post")], "no autoencoder of layer 1"),
        ([(1, "resid_post"), (1, "resid_post")], "Layer 1 has several"),
    ],
)
def test_autoencoders_that_do_not_go_together(tmp_path: Path, rows: list[tuple[int, str]], words: str) -> None:
    lake = lake_of(tmp_path)
    with lake.start_run("made-01", {"kind": "sae"}) as run:
        with run.segment(0, (0, 1)) as segment:
            layers, sites = zip(*rows, strict=True)
            segment.append("saes", {
                "sae_id": [f"s{n}" for n in range(len(rows))], "arch": "topk", "layer": np.array(layers, np.int32),
                "site": list(sites), "d_in": 4, "d_out": 4, "d_sae": 8,
            })  # fmt: skip
        run.finish()
    with pytest.raises(LakeError, match=words):
        ask(lake, "made-01", question_named("links"))
