"""What a notebook shows: reprs of a lake and its runs, charts without a network, a collection's progress."""

import html
import inspect
import io
import re
from collections.abc import Iterator
from pathlib import Path

import altair as alt
import pytest

import tracelake
from tracelake import OpenLake
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.configuration.settings import CollectSettings
from tracelake.collect.progress_line import ProgressLine
from tracelake.collect.running.collector import Progress
from tracelake.lake.errors import NotFoundError
from tracelake.queries.report.health import flags


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> OpenLake:
    folder = tmp_path_factory.mktemp("notebook") / "lake"
    for tag in ("first", "second"):
        tracelake.collect(
            folder, dataset="tinymath:test", limit=2, max_new_tokens=4, tag=tag, keep=["tokens", "layers"], seed=1
        )
    return tracelake.open(folder)


@pytest.fixture
def renderer() -> Iterator[None]:
    active = alt.renderers.active
    yield
    alt.renderers.enable(active)


def test_reprs_say_what_is_there_and_what_can_be_asked(lake: OpenLake) -> None:
    assert "2 runs" in repr(lake) and ".sql(" in repr(lake)
    assert repr(lake.runs).count("\n") == 3 and "second" in repr(lake.runs)
    assert "2 sequences" in repr(lake["latest"]) and "tokens,layers" in repr(lake["latest"]).replace(", ", ",")
    assert "no runs" in repr(OpenLake.open(OpenLake.create(lake.path.parent / "empty").path).runs)


def test_runs_are_a_frame_and_a_list(lake: OpenLake) -> None:
    assert lake.runs.frame.height == len(lake.runs) == len(lake.runs()) == 2
    assert lake.runs.filter(tag="first")["run_id"].item() == lake["first"].run_id == lake.runs[0]["run_id"]
    assert lake.runs["tag"].to_list() == [run["tag"] for run in lake.runs] == ["first", "second"]
    assert "first" in lake.runs._repr_html_()


def test_a_run_gives_its_own_rows_only(lake: OpenLake, tmp_path: Path) -> None:
    run = lake["first"]
    assert run.tokens.height == run.info["n_tokens"] == lake.scan("token_steps", run="first").collect().height
    assert run.tokens["run_id"].unique().to_list() == run.sequences["run_id"].unique().to_list() == [run.run_id]
    assert run.tokens.select("sequence_id", "position").rows() == sorted(
        run.tokens.select("sequence_id", "position").rows()
    )
    counted = run.sql("select count(*) as n, min(run_id) = $run as mine from token_steps")
    assert counted.rows() == [(run.tokens.height, True)]
    assert run.query("surprisal_trace").height > 0 and run.chart("surprisal_trace").to_dict()["layer"]
    written = run.report(tmp_path / "r.html")
    assert written.file.stat().st_size > 100_000 and written.run_id == run.run_id
    with pytest.raises(NotFoundError, match="first"):
        lake["frist"]


def test_text_and_charts_count_the_same_flags(lake: OpenLake) -> None:
    counted = lake.sql(
        "select sequence_id, count(*) filter (where is_on) as n from sequence_flags "
        "where profile = 'default' and run_id = $run group by all",
        {"run": lake["first"].run_id},
    )
    in_text = {row["sequence_id"]: len(flags(row)) for row in lake["first"].query("health").to_dicts()}
    assert dict(counted.rows()) == in_text


def test_charts_show_themselves_without_a_network(lake: OpenLake, renderer: None) -> None:
    chart = lake["first"].chart("surprisal_trace")
    for shown in (chart, chart.properties(height=90)):
        bundle = shown._repr_mimebundle_()
        found = bundle[0] if isinstance(bundle, tuple) else bundle
        page = html.unescape(re.search(r'srcdoc="([^"]*)"', found["text/html"])[1])  # type: ignore[index]
        assert "default-src 'none'" in page and 'class="chart-spec"' in page and len(page) > 500_000
        assert not re.search(r'(?:src|href)="https?:', page)


def test_another_renderer_stays(lake: OpenLake, renderer: None) -> None:
    alt.renderers.enable("png")
    lake.chart("surprisal_trace", run="first")
    assert alt.renderers.active == "png"


def test_collect_names_its_settings() -> None:
    assert set(CollectSettings.__annotations__) == set(CollectConfig.model_fields), (
        "bring collect/configuration/settings.py up to date"
    )
    names = list(inspect.signature(tracelake.collect).parameters)
    assert names[:3] == ["lake", "assume_yes", "progress"] and {"model", "prompt", "keep"} <= set(names)


def test_progress_is_one_line_written_over(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    line.update(Progress(4, 1, 1234, 2_000_000))
    line.update(Progress(4, 2, 2000, 3_000_000))  # too soon
    line.say("notice")
    assert stream.getvalue().startswith("\r1/4 segments, 1,234 tokens (") and stream.getvalue().endswith("\nnotice\n")
    tracelake.collect(tmp_path / "lake", prompt="1 + 1 =", max_new_tokens=2, keep="tokens", progress=True)
    assert "segments" in capsys.readouterr().err
    tracelake.collect(tmp_path / "lake", prompt="1 + 1 =", max_new_tokens=2, keep="tokens")
    assert "segments" not in capsys.readouterr().err
