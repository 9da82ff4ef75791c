"""`lake show --follow`: flags and risk of each segment, while the run goes on, equal to those of the finished run."""

import json
import time

import pytest
from typer.testing import CliRunner
from warm_processes import start_lake

import tracelake
from tracelake.cli import app
from tracelake.lake.errors import UsageError
from tracelake.queries.following.follow import RISKY, follow


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run of eight segments in a process of its own, watched from here; (lake, news, status at each of them)."""
    folder = tmp_path_factory.mktemp("watched") / "lake"
    options = ["--dataset", "tinymath:test", "--limit", "16", "--samples", "2", "--segment-items", "2", "--tag", "live"]
    process = start_lake("collect", *options, "--lake", folder)
    try:
        deadline = time.monotonic() + 60
        while not list(folder.glob("_runs/*/run.json")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        lake = tracelake.open(folder)
        run_id = lake.resolve_run("latest")
        news, statuses = [], []
        for one in follow(lake, run_id, "default", interval_s=0.02):
            news.append(one)
            statuses.append(lake.run_status(run_id))
        assert process.wait(60) == 0
    finally:
        process.kill()
    return lake, run_id, news, statuses


def test_segments_are_told_while_the_run_goes_on(watched):
    _, _, news, statuses = watched
    assert [one.segment for one in news] == list(range(8))
    assert {one.n_segments for one in news} == {8}
    assert statuses[0] == "running"


def test_what_is_told_equals_the_verdicts_of_the_finished_run(watched):
    lake, run_id, news, _ = watched
    health = lake.query("health", run=run_id)
    for one in news:
        rows = health.filter(health["sequence_id"].is_between(one.segment * 4, one.segment * 4 + 3))
        assert one.n_sequences == len(rows) == 4
        assert one.n_repetition == rows["repetition_loop"].sum()
        assert one.n_collapse == rows["attention_collapse"].sum()
        assert one.n_mid_layer == rows["mid_layer_anomaly"].sum()
        assert one.n_high_entropy == (rows["high_entropy_steps"] > 0).sum()
        assert one.n_risky == (rows["risk_v05"] >= RISKY).sum()
        assert one.max_risk == pytest.approx(rows["risk_v05"].max())
        assert one.n_generated_tokens == rows["n_steps"].sum()
    assert sum(one.n_tokens for one in news) == lake.sql("select count(*) from token_steps").item()


def test_the_command_prints_lines_or_json(watched):
    lake, run_id, news, _ = watched
    shown = ["show", "live", "--follow", "--lake", str(lake.path)]
    lines = CliRunner().invoke(app, shown, catch_exceptions=False).stdout.splitlines()
    assert len(lines) == 8 and all("risk up to" in line for line in lines)
    printed = CliRunner().invoke(app, [*shown, "--json"], catch_exceptions=False).stdout.splitlines()
    for line, one in zip(printed, news, strict=True):
        assert json.loads(line) == {**one.as_dict(), "max_risk": pytest.approx(one.max_risk)}


def test_another_profile_judges_again_and_an_unknown_one_is_refused(watched):
    lake, run_id, news, _ = watched
    strict = list(follow(lake, run_id, "phi3"))
    assert [one.n_tokens for one in strict] == [one.n_tokens for one in news]
    with pytest.raises(UsageError, match="no health profile"):
        list(follow(lake, run_id, "gtp2"))
