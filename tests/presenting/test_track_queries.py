"""Saved queries of tracks and detection against values computed by hand from the same rows."""

import math
from collections.abc import Iterator
from statistics import mean

import pytest
from hand_made_lake import RUN, connection_to, frames
from track_rows import SIGNALS

from tracelake.lake.sql.duck import Connection
from tracelake.queries.saved_query import find


@pytest.fixture(scope="module")
def full() -> Iterator[Connection]:
    with connection_to(frames()) as connection:
        yield connection


def test_divergence_in_plain_python(full: Connection) -> None:
    tables = frames()
    about = {one["sequence_id"]: one for one in tables["sequences"].iter_rows(named=True) if one["run_id"] == RUN}
    units: dict[tuple[int, int, int], list[float]] = {}
    for row in tables["track_points"].iter_rows(named=True):
        units.setdefault((row["sequence_id"], row["position"], row["layer"]), []).append(row["activation"])
    answers: dict[tuple[int, int], list[float]] = {}
    for (sequence, _, layer), values in units.items():
        shares = [one / sum(values) for one in values]
        answers.setdefault((sequence, layer), []).append(-sum(p * math.log2(p) for p in shares))
    prompts: dict[tuple[int, str, str], list[float]] = {}
    for (sequence, layer), values in answers.items():
        outcome = "right" if about[sequence]["correct"] else "wrong"
        prompts.setdefault((layer, outcome, about[sequence]["prompt_id"]), []).append(mean(values))
    wanted: dict[tuple[int, str], list[float]] = {}
    for (layer, outcome, _), values in prompts.items():
        wanted.setdefault((layer, outcome), []).append(mean(values))
    rows = find("track_divergence").run(full, run=RUN)
    found = {(row["layer"], row["outcome"]): row["value"] for row in rows.iter_rows(named=True)}
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        assert found[key] == pytest.approx(mean(values), rel=1e-5)


def test_tracks_of_one_token(full: Connection) -> None:
    rows = find("track_paths").run(full, run=RUN)
    assert rows.select("track", "layer", "fate").rows() == [
        ("track 0", 3, "born"), ("track 0", 4, "goes on"), ("track 1", 3, "born"), ("track 2", 4, "born"),
    ]  # fmt: skip
    points = frames()["track_points"].filter(sequence_id=rows["sequence_id"][0], position=rows["position"][0])
    assert sorted(rows["activation"]) == pytest.approx(sorted(points["activation"]))
    assert rows.filter(layer=3)["label"].to_list()[0] == "'a'" and rows.filter(layer=4)["label"][0] == "no rule"


def test_neighbours_on_both_sides(full: Connection) -> None:
    below = find("feature_neighbours").run(full, run=RUN, feature=1)
    assert below["side"].unique().to_list() == ["next layer"]
    assert below.select("partner", "cosine").row(0) == ("layer 4, 1", pytest.approx(0.9))
    above = find("feature_neighbours").run(full, run=RUN, feature=1, layer=4)
    assert above.select("side", "partner").rows() == [("layer before", f"layer 3, {one}") for one in (1, 0, 3)]


def test_detections_of_the_newest_analysis(full: Connection) -> None:
    gains = find("detection_gains").run(full, run=RUN)
    assert gains.select("signal", "score", "gain").rows() == [
        ("tracks", "overall", 0.01), ("tracks", "within prompts", 0.01),
    ]  # fmt: skip
    quality = find("detection_quality").run(full, run=RUN)
    assert quality.height == 4 * len(SIGNALS) and set(quality["kind"]) == {"signal", "labels shuffled"}
    risks = find("risk_by_coverage").run(full, run=RUN)
    assert set(risks["signal"]) == {"telemetry", "tracks", "telemetry+tracks", "consistency"}
    roc = find("detection_roc").run(full, run=RUN)
    assert roc["signal"].unique(maintain_order=True).to_list() == ["telemetry", "telemetry+tracks", "tracks"]
    assert roc.height == find("detection_calibration").run(full, run=RUN).height == 15
    assert find("detection_importances").run(full, run=RUN, most=2).height == 2
