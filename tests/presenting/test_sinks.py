"""`lake metrics`: the numbers against SQL, polars and numpy; files, endpoint, Pushgateway, Datadog over real HTTP."""

import gzip
import json
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import polars as pl
import pytest
from made_metrics import CANARIES, HOSTILE, hand_made, lake_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from sink_servers import answers, free_port, recording, until
from typer.testing import CliRunner
from warm_processes import piped_lake, start_lake

import tracelake
from tracelake.cli import app
from tracelake.lake.errors import ConfigError, DamageError, LakeError, NotFoundError, UsageError
from tracelake.lake.lake import Lake
from tracelake.queries.sinks import datadog, prometheus
from tracelake.queries.sinks.metric import METRICS, Histogram
from tracelake.queries.sinks.run_numbers import MOST_LAYERS, RunReader, _spread

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A lake with a run of four segments on the bundled problems, and one whose prompts are recognised anywhere."""
    path = tmp_path_factory.mktemp("sinks") / "lake"
    keep = ["tokens", "layers", "heads"]
    tracelake.collect(
        path, dataset="tinymath:test", limit=8, samples=2, max_new_tokens=24, keep=keep, segment_items=2, tag="sums"
    )
    prompts = [f"{CANARIES[0]} has 12 {CANARIES[1]}s.", f"{CANARIES[2]} {CANARIES[1]} finds 3 more."]
    tracelake.collect(path, prompt=prompts, max_new_tokens=6, keep=keep, tag="canary", chat="off")
    return path


@pytest.fixture(scope="module")
def lake(folder):
    return tracelake.open(folder)


@pytest.fixture(scope="module")
def reading(lake):
    return RunReader(lake, "sums").read()


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "lake")


def values(reading):
    """{(name, labels without run, tag and model): value} of a reading."""
    return {
        (family.metric.name, *(sample.labels[name] for name in family.metric.labels)): sample.value
        for family in reading.families
        for sample in family.samples
    }


# -- the numbers -------------------------------------------------------------------------------------------------------


def test_counts_equal_those_of_the_tables(lake, reading):
    got = values(reading)
    run_id = lake.resolve_run("sums")
    sequences = lake.scan("sequences", "sums").collect()
    for reason, n in sequences["finish_reason"].value_counts().rows():
        assert got["tracelake_sequences_total", reason] == n > 0
    assert sum(value for (name, *_), value in got.items() if name == "tracelake_sequences_total") == 16
    assert got["tracelake_tokens_total", "prompt"] == sequences["n_prompt_tokens"].sum()
    assert got["tracelake_tokens_total", "generated"] == sequences["n_generated_tokens"].sum()
    assert got["tracelake_graded_sequences_total", "correct"] == sequences["correct"].sum()
    assert got["tracelake_graded_sequences_total", "wrong"] == (~sequences["correct"]).sum()
    assert got[("tracelake_segments_total",)] == got[("tracelake_segments_planned",)] == 4
    assert got["tracelake_run_status", "complete"] == 1 and got["tracelake_run_status", "running"] == 0
    for table in ("token_steps", "layer_summaries", "head_summaries"):
        files = list((lake.path / "data" / table / f"run={run_id}").rglob("*.parquet"))
        assert got["tracelake_stored_bytes", table] == sum(file.stat().st_size for file in files)
        assert got["tracelake_stored_rows", table] == lake.scan(table, "sums").select(pl.len()).collect().item()


def test_times_equal_those_of_the_operations(lake, reading):
    got = values(reading)
    operations = lake.scan("operations", "sums").collect()
    wall = operations.filter(name="wall")["total_ms"].sum() / 1000
    assert got[("tracelake_wall_seconds_total",)] == pytest.approx(wall)
    for part in ("prompt", "generated"):
        assert got["tracelake_tokens_per_second", part] == pytest.approx(got["tracelake_tokens_total", part] / wall)
    decode = operations.filter(name="decode")
    assert got["tracelake_operation_seconds_total", "decode"] == pytest.approx(decode["total_ms"].sum() / 1000)
    assert got["tracelake_operation_calls_total", "decode"] == decode["count"].sum()
    assert ("tracelake_operation_seconds_total", "wall") not in got
    row = next(row for row in lake.runs() if row["tag"] == "sums")
    created, finished = (got[f"tracelake_run_{when}_timestamp_seconds",] for when in ("created", "finished"))
    assert finished - created == pytest.approx((row["finished_at"] - row["created_at"]).total_seconds())
    assert created <= got[("tracelake_last_commit_timestamp_seconds",)] <= finished <= time.time()


@pytest.mark.parametrize(
    ("metric", "column", "scale", "labelled"),
    [
        ("tracelake_token_entropy_bits", "entropy_bits", 1, True),
        ("tracelake_token_surprisal_bits", "surprisal_bits", 1, True),
        ("tracelake_step_latency_seconds", "latency_ms", 1000, False),
    ],
)
def test_histograms_equal_numpy(lake, reading, metric, column, scale, labelled):
    got = values(reading)
    tokens = lake.scan("token_steps", "sums").collect()
    for part in ("prompt", "generated") if labelled else ("generated",):
        rows = tokens.filter(pl.col("is_prompt") == (part == "prompt"))
        expected = rows[column].drop_nulls().to_numpy().astype(float) / scale
        found = got[(metric, part) if labelled else (metric,)]
        assert isinstance(found, Histogram)
        assert found.count == len(expected) > 100
        assert found.sum == pytest.approx(expected.sum())
        cumulative = np.searchsorted(np.sort(expected), np.array(found.bounds), side="right")
        assert list(found.at_most) == cumulative.tolist()


def test_norms_and_damage_equal_polars(lake, reading):
    got = values(reading)
    states = lake.scan("layer_summaries", "sums").collect()
    kept = states.filter((pl.col("site") == "resid_post") & (pl.col("position") > 0))
    for layer, mean, highest in kept.group_by("layer").agg(pl.mean("l2_norm"), pl.max("l2_norm").alias("max")).rows():
        assert got["tracelake_layer_norm_mean", str(layer)] == pytest.approx(mean, rel=1e-5)
        assert got["tracelake_layer_norm_max", str(layer)] == pytest.approx(highest)
    assert [labels for name, *labels in got if name == "tracelake_layer_norm_mean"] == [[str(i)] for i in range(6)]
    assert got[("tracelake_state_nan_elements_total",)] == states["n_nan"].sum() == 0


@pytest.mark.parametrize("profile", ["default", "gpt2", "v0.3"])
def test_flags_and_risk_equal_the_saved_queries(lake, profile):
    got = values(RunReader(lake, "sums", profile).read())
    overview = lake.query("health_overview", run="sums", profile=profile)
    names = {"NaN": "nan", "Inf": "inf"}
    for flag, _, flagged, judged, _ in overview.rows():
        name = names.get(flag, flag.replace(" ", "_").replace("-", "_"))
        assert got["tracelake_judged_sequences_total", name, profile] == judged == 16
        assert got["tracelake_flagged_sequences_total", name, profile] == flagged
    assert len([key for key in got if key[0] == "tracelake_judged_sequences_total"]) == len(overview)
    query = (
        "select risk_v04, risk_v05, collapsed_rate, focused_rate from risk_scores where profile = $p and run_id = $r"
    )
    scores = lake.sql(query, {"p": profile, "r": lake.resolve_run("sums")})
    for rule in ("v04", "v05"):
        risks = scores[f"risk_{rule}"]
        assert got["tracelake_risk_mean", rule, profile] == pytest.approx(risks.mean())
        assert got["tracelake_risk_max", rule, profile] == pytest.approx(risks.max())
        histogram = got["tracelake_sequence_risk", rule, profile]
        assert histogram.at_most == tuple((risks <= bound).sum() for bound in histogram.bounds)
    assert got["tracelake_collapsed_heads_ratio", profile] == pytest.approx(scores["collapsed_rate"].mean())
    assert got["tracelake_focused_heads_ratio", profile] == pytest.approx(scores["focused_rate"].mean())


def test_what_is_not_known_has_no_sample(tmp_path):
    got = values(RunReader(hand_made(tmp_path / "lake"), "latest").read())
    names = {name for name, *_ in got}
    unknown = ("entropy_bits", "surprisal_bits", "latency_seconds", "risk", "heads_ratio", "graded", "per_second")
    assert not [name for name in names for word in unknown if word in name]
    assert got["tracelake_judged_sequences_total", "repetition_loop", "default"] == 0
    assert ("tracelake_flagged_sequences_total", "repetition_loop", "default") not in got
    assert got["tracelake_flagged_sequences_total", "nan", "default"] == 0
    # A reason that is none of ours could be any text.
    assert got["tracelake_sequences_total", "other"] == 1


def test_nan_and_infinity_are_counted_and_left_out_of_norms(tmp_path):
    got = values(RunReader(hand_made(tmp_path / "lake", n_nan=3), "latest").read())
    assert got[("tracelake_state_nan_elements_total",)] == 2 * 2 * 3
    assert got[("tracelake_state_inf_elements_total",)] == 2 * 2
    assert got["tracelake_flagged_sequences_total", "nan", "default"] == 1
    assert not [key for key in got if key[0].startswith("tracelake_layer_norm")]


def test_deep_models_export_a_bounded_number_of_layers(tmp_path):
    got = values(RunReader(hand_made(tmp_path / "lake", n_layers=300), "latest").read())
    layers = [int(labels[0]) for name, *labels in got if name == "tracelake_layer_norm_max"]
    assert len(layers) == MOST_LAYERS and layers[0] == 0 and layers[-1] == 299 and layers == sorted(set(layers))
    assert _spread(["0", "1"]) == ["0", "1"]


# -- segment by segment ------------------------------------------------------------------------------------------------


def test_segments_are_added_as_they_are_committed(copied):
    lake = tracelake.open(copied)
    whole = values(RunReader(lake, "sums").read())
    run_id = lake.resolve_run("sums")
    commits = copied / "_runs" / run_id / "commits"
    records = sorted(commits.iterdir())
    assert len(records) == 5
    aside = copied.parent / "aside"
    aside.mkdir()
    for record in records:
        shutil.move(record, aside / record.name)
    # A run that grows has no record of its end yet.
    shutil.rmtree(copied / "_runs" / run_id / "ends")
    reader = RunReader(lake, run_id)
    seen = []
    for record in records:
        shutil.copy(aside / record.name, record)
        got = values(reader.read())
        seen.append(got["tracelake_tokens_total", "generated"])
        # What was read is not read again: its rows may even be out of reach.
        for entry in json.loads(record.read_text())["body"]["files"]:
            (copied / entry["path"]).unlink()
    assert seen == sorted(seen) and len(set(seen)) == 4 and seen[0] > 0
    assert list(got) == list(whole)
    for key, value in whole.items():
        if isinstance(value, Histogram):
            assert (got[key].count, got[key].at_most) == (value.count, value.at_most)
            assert got[key].sum == pytest.approx(value.sum)
        else:
            assert got[key] == pytest.approx(value), key
    with pytest.raises(DamageError):
        RunReader(lake, run_id).read()


def test_latest_moves_on_to_a_newer_run(tmp_path):
    lake = hand_made(tmp_path / "lake", "first")
    reader = RunReader(lake, "latest")
    assert reader.read().run_id == "first"
    hand_made(tmp_path / "lake", "second", n_layers=3)
    reading = reader.read()
    assert reading.run_id == "second"
    assert len([key for key in values(reading) if key[0] == "tracelake_layer_norm_max"]) == 3


def test_a_reading_that_fails_leaves_the_last_one_whole(copied):
    lake = tracelake.open(copied)
    reader = RunReader(lake, "sums")
    first = values(reader.read())
    hidden = next((copied / "data" / "token_steps" / f"run={lake.resolve_run('sums')}").rglob("*.parquet"))
    hidden.rename(hidden.with_suffix(".gone"))
    reader._seen = set()  # as if every segment were new
    with pytest.raises(DamageError):
        reader.read()
    hidden.with_suffix(".gone").rename(hidden)
    reader._run_id = ""
    assert values(reader.read())["tracelake_tokens_total", "generated"] == first["tracelake_tokens_total", "generated"]


# -- text --------------------------------------------------------------------------------------------------------------


def outputs(lake, run):
    """What every sink would send of a run, as one text each."""
    reading = RunReader(lake, run).read()
    yield prometheus.text(reading).decode()
    yield json.dumps(reading.as_dict())
    yield json.dumps(datadog.points(reading))
    with recording() as gateway, recording() as intake:
        prometheus.push(reading, gateway.url)
        intake.statuses = [202]
        datadog.send(reading, datadog.Intake("datadoghq.com", KEY, intake.url))
        for request in [*gateway.requests, *intake.requests]:
            body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
            yield request.path + json.dumps(request.headers) + body.decode()


def test_no_text_leaves_the_lake(lake, tmp_path):
    for source, run in ((lake, "canary"), (hand_made(tmp_path / "lake"), "odd-run")):
        sent = list(outputs(source, run))
        assert len(sent) == 5
        for text in sent:
            assert "tracelake" in text
            assert not [word for word in CANARIES if word.lower() in text.lower()]


def test_labels_are_of_closed_sets(lake, reading):
    run_id = lake.resolve_run("sums")
    tables = {row[0] for row in lake.sql("show tables").rows()}
    operations = set(lake.scan("operations", "sums").collect()["name"])
    allowed = {
        "run": {run_id},
        "tag": {"sums"},
        "model": {"tinymath"},
        "kind": {"generate"},
        "architecture": {"GPT2LMHeadModel"},
        "device": {"cpu"},
        "dtype": {"float32"},
        "status": {"running", "complete", "interrupted", "failed"},
        "finish_reason": {"eos", "length", "context", "stop_string", "stopped", "broken", "none"},
        "outcome": {"correct", "wrong"},
        "part": {"prompt", "generated"},
        "operation": operations,
        "table": tables,
        "layer": {str(i) for i in range(6)},
        "rule": {"v04", "v05"},
        "profile": {"default"},
        "flag": {
            *("broken", "nan", "inf", "repetition_loop", "mid_layer_anomaly", "attention_collapse", "high_entropy"),
            "compound_signal",
        },
    }
    for family in reading.families:
        for sample in family.samples:
            assert set(sample.labels) == {"run", "tag", "model", *family.metric.labels}
            for name, value in sample.labels.items():
                assert value in allowed[name], (family.metric.name, name, value)


def test_hostile_labels_come_back_as_they_were(tmp_path):
    lake = hand_made(tmp_path / "lake", tag=HOSTILE, model={"name": HOSTILE + "m", "n_layers": 1})
    reading = RunReader(lake, "latest").read()
    families = list(parse(prometheus.text(reading).decode()))
    assert {family.name for family in families} == {f.metric.name.removesuffix("_total") for f in reading.families}
    for family in families:
        for sample in family.samples:
            assert sample.labels["tag"] == HOSTILE and sample.labels["model"] == HOSTILE + "m"
    for name, _, tags in datadog.points(reading):
        assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.]{0,199}", name)
        for tag in tags:
            assert re.fullmatch(r"[a-z][\w\-:./]{0,199}", tag) and tag == tag.lower(), tag


# -- Prometheus' text, file and endpoint -------------------------------------------------------------------------------


def test_the_text_parses_back_to_the_reading(reading):
    text = prometheus.text(reading).decode()
    parsed = {family.name: family for family in parse(text)}
    for name, metric in METRICS.items():
        assert re.fullmatch(r"tracelake_[a-z0-9_]+", name) and (metric.kind == "counter") == name.endswith("_total")
    for family in reading.families:
        metric = family.metric
        back = parsed[metric.name.removesuffix("_total")]
        assert (back.type, back.documentation) == (metric.kind, metric.help)
        found = {(sample.name, *sorted(sample.labels.items())): sample.value for sample in back.samples}
        for sample in family.samples:
            labels = sorted(sample.labels.items())
            if isinstance(sample.value, Histogram):
                assert found[f"{metric.name}_sum", *labels] == pytest.approx(sample.value.sum)
                assert found[f"{metric.name}_count", *labels] == sample.value.count
                top = sorted([*labels, ("le", "+Inf")])
                assert found[f"{metric.name}_bucket", *top] == sample.value.count
            else:
                assert found[metric.name, *labels] == pytest.approx(sample.value)


def test_the_file_is_replaced_whole(folder, tmp_path):
    target = tmp_path / "tracelake.prom"
    target.write_text("old")
    old = target.open()
    result = CliRunner().invoke(app, ["metrics", "sums", "--lake", str(folder), "-o", str(target)])
    assert result.exit_code == 0 and result.stdout == f"{target}\n"
    assert old.read() == "old"  # whoever had it open keeps a whole file
    old.close()
    assert list(tmp_path.iterdir()) == [target]
    assert target.stat().st_mode & 0o044 == 0o044
    assert len(list(parse(target.read_text()))) > 20


def shape(text):
    """Every series of a text, with its value to six digits: threads add floats in any order."""
    lines = [line.rpartition(" ") for line in text.decode().splitlines()]
    return [(name, value if name.startswith("#") else f"{float(value):.6g}") for name, _, value in lines]


class CountingReader(RunReader):
    n_reads = 0

    def read(self):
        self.n_reads += 1
        time.sleep(0.05)
        return super().read()


@pytest.fixture
def served(copied):
    """(reader, address) of an endpoint that reads the copied lake at most every 0.5 seconds."""
    reader = CountingReader(tracelake.open(copied), "sums")
    with prometheus.make_endpoint(reader, "127.0.0.1", 0, 0.5) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield reader, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def get(url, **headers):
    with urlopen(Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})) as response:
        return response.headers, response.read()


def test_the_endpoint_speaks_what_is_asked_for(served):
    reader, url = served
    headers, body = get(f"{url}/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert shape(body) == shape(prometheus.text(RunReader(reader.lake, "sums").read()))
    headers, packed = get(f"{url}/metrics", Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip" and gzip.decompress(packed) == body
    headers, modern = get(f"{url}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert len(list(parse_openmetrics(modern.decode()))) == len(list(parse(body.decode())))
    assert b"/metrics" in get(url)[1]
    with pytest.raises(HTTPError, match="404"):
        get(f"{url}/lake.json")


def test_many_scrapes_are_one_reading(served):
    reader, url = served
    assert reader.n_reads == 1
    threads = [threading.Thread(target=get, args=(f"{url}/metrics",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reader.n_reads <= 2
    before = reader.n_reads
    time.sleep(0.6)
    get(f"{url}/metrics")
    assert reader.n_reads == before + 1


def test_a_run_that_is_gone_is_an_error_of_the_scrape(served):
    reader, url = served
    reader.lake.remove(reader.lake.resolve_run("sums"), dry_run=False)
    time.sleep(0.6)
    with pytest.raises(HTTPError) as caught:
        get(f"{url}/metrics")
    assert caught.value.code == 503 and b"no run 'sums'" in caught.value.read()


def test_a_run_is_watched_while_it_is_collected(tmp_path):
    path = tmp_path / "lake"
    hand_made(path, "older")
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    words = ["metrics", "latest", "--serve", "--port", str(port), "--interval", "0", "--lake", str(path)]
    with piped_lake(*words, stderr=tmp_path / "said") as (server, output):
        try:
            assert output.readline() == f"{url}\n".encode()
            until(lambda: answers(url), 30)
            options = ["--dataset", "tinymath:test", "--limit", "6", "--segment-items", "1", "--tag", "live"]
            collecting = start_lake("collect", *options, "--lake", path)
            seen = []
            while collecting.poll() is None or not seen or seen[-1][0] != "complete":
                seen.append(live(get(url)[1].decode()))
                time.sleep(0.05)
        finally:
            server.send_signal(2)
        assert server.wait(30) == 0 and "stopped" in (tmp_path / "said").read_text()
    running = [tokens for status, tokens in seen if status == "running"]
    assert len(set(running)) >= 3 and running == sorted(running)
    expected = (
        tracelake.open(path).sql("select sum(n_generated_tokens) from sequences where run_id like 'live%'").item()
    )
    assert seen[-1] == ("complete", expected)


def live(text):
    """(status, generated tokens) of a run tagged `live`; (None, 0) while there is none."""
    status, tokens = None, 0
    for family in parse(text):
        for sample in family.samples:
            if sample.labels.get("tag") == "live":
                if sample.name == "tracelake_run_status" and sample.value:
                    status = sample.labels["status"]
                if sample.name == "tracelake_tokens_total" and sample.labels["part"] == "generated":
                    tokens = sample.value
    return status, tokens


# -- Pushgateway -------------------------------------------------------------------------------------------------------


def test_push_replaces_the_group_of_job_and_run(reading):
    with recording() as gateway:
        prometheus.push(reading, gateway.url + "/", job="nightly")
    [request] = gateway.requests
    assert (request.method, request.path) == ("PUT", f"/metrics/job/nightly/run/{reading.run_id}")
    assert request.body == prometheus.text(reading)
    assert "authorization" not in request.headers


def test_push_takes_its_password_from_the_environment_only(reading, monkeypatch):
    monkeypatch.setenv("TRACELAKE_PUSHGATEWAY_USER", "me")
    monkeypatch.setenv("TRACELAKE_PUSHGATEWAY_PASSWORD", "secret")
    with recording() as gateway:
        prometheus.push(reading, gateway.url)
        assert gateway.requests[0].headers["authorization"] == "Basic bWU6c2VjcmV0"
        with pytest.raises(UsageError, match="TRACELAKE_PUSHGATEWAY_USER") as caught:
            prometheus.push(reading, gateway.url.replace("://", "://me:hunter2@"))
        assert "hunter2" not in str(caught.value)
        assert len(gateway.requests) == 1


def test_push_says_what_went_wrong(reading):
    with recording() as gateway:
        gateway.statuses, gateway.answer = [400], b"inconsistent"
        with pytest.raises(ConfigError, match="400.*inconsistent"):
            prometheus.push(reading, gateway.url)
    with pytest.raises(ConfigError, match="cannot be reached"):
        prometheus.push(reading, f"127.0.0.1:{free_port()}")
    for odd in ("ftp://host", "http://", "http://host:port", ""):
        with pytest.raises(UsageError, match="HOST:PORT"):
            prometheus.push(reading, odd)


# -- Datadog -----------------------------------------------------------------------------------------------------------


def checked_series(request):
    """The series of one request, checked as Datadog's series intake, version 2, describes them."""
    assert (request.method, request.path) == ("POST", "/api/v2/series")
    assert request.headers["dd-api-key"] == KEY and "dd-application-key" not in request.headers
    assert request.headers["content-encoding"] == "gzip" and request.headers["content-type"] == "application/json"
    assert len(request.body) <= 512_000
    body = json.loads(gzip.decompress(request.body))
    assert list(body) == ["series"] and body["series"]
    for series in body["series"]:
        assert set(series) <= {"metric", "type", "points", "tags", "unit"} and series["type"] == 3
        assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.]{0,199}", series["metric"])
        [point] = series["points"]
        assert abs(point["timestamp"] - time.time()) < 600 and isinstance(point["timestamp"], int)
        assert isinstance(point["value"], float)
        assert series.get("unit") in (None, "byte", "second")
        for tag in series["tags"]:
            assert re.fullmatch(r"[a-z][\w\-:./]{0,199}", tag) and not tag.endswith("_")
    return body["series"]


def test_datadog_gets_every_number(reading, monkeypatch):
    monkeypatch.setattr(datadog, "SERIES_PER_REQUEST", 100)
    with recording() as intake:
        intake.statuses, intake.answer = [202], b'{"errors": []}'
        n_series = datadog.send(reading, datadog.Intake("datadoghq.com", KEY, intake.url))
    sent = [series for request in intake.requests for series in checked_series(request)]
    assert len(intake.requests) == -(-n_series // 100) > 1 and len(sent) == n_series
    by_name = {(series["metric"], *sorted(series["tags"])): series["points"][0]["value"] for series in sent}
    assert len(by_name) == n_series
    base = (f"run:{reading.run_id}", "tag:sums", "model:tinymath")
    expected = values(reading)
    tokens = by_name["tracelake.tokens", *sorted([*base, "part:generated"])]
    assert tokens == expected["tracelake_tokens_total", "generated"]
    entropy = expected["tracelake_token_entropy_bits", "generated"]
    tags = [*base, "part:generated"]
    assert by_name["tracelake.token_entropy_bits.sum", *sorted(tags)] == pytest.approx(entropy.sum)
    assert by_name["tracelake.token_entropy_bits.count", *sorted(tags)] == entropy.count
    bucket = by_name["tracelake.token_entropy_bits.bucket", *sorted([*tags, "upper_bound:4.0"])]
    assert bucket == entropy.at_most[entropy.bounds.index(4)]
    assert by_name["tracelake.stored_bytes", *sorted([*base, "table:token_steps"])] > 0


def test_datadog_is_asked_again_when_it_is_busy(reading):
    with recording() as intake:
        intake.statuses, intake.answer = [503, 202], b'{"errors": []}'
        datadog.send(reading, datadog.Intake("datadoghq.com", KEY, intake.url))
    assert len(intake.requests) == 2 and intake.requests[0].body == intake.requests[1].body


@pytest.mark.parametrize(
    ("status", "message"), [(403, "refused DD_API_KEY"), (400, "answered 400: .*oversized"), (302, "answered 302")]
)
def test_datadog_errors_do_not_tell_the_key(reading, status, message):
    with recording() as intake, recording() as elsewhere:
        intake.statuses, intake.answer = [status], f'{{"errors": ["oversized for {KEY}"]}}'.encode()
        intake.location = elsewhere.url if status == 302 else None
        with pytest.raises(ConfigError, match=message) as caught:
            datadog.send(reading, datadog.Intake("datadoghq.com", KEY, intake.url))
        assert len(intake.requests) == 1 and not elsewhere.requests
    assert KEY not in str(caught.value)


def test_datadog_out_of_reach(reading):
    intake = datadog.Intake("datadoghq.com", KEY, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConfigError, match="cannot be reached") as caught:
        datadog.send(reading, intake)
    assert KEY not in str(caught.value) + repr(intake)


def test_key_and_site_come_from_the_environment(monkeypatch):
    for name in ("DD_API_KEY", "DD_SITE", "DD_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="set the environment variable DD_API_KEY"):
        datadog.Intake.from_environment()
    monkeypatch.setenv("DD_API_KEY", KEY + "\n")
    assert datadog.Intake.from_environment() == datadog.Intake("datadoghq.com", KEY)
    monkeypatch.setenv("DD_SITE", "datadoghq.eu")
    assert datadog.Intake.from_environment().address == "https://api.datadoghq.eu"
    assert datadog.Intake.from_environment("us5.datadoghq.com").address == "https://api.us5.datadoghq.com"
    for odd in ("evil.example/x?", "nohost", "a b.c", "https://datadoghq.eu"):
        with pytest.raises(ConfigError, match="Datadog site"):
            datadog.Intake.from_environment(odd)
    for odd in ("http://intake.example", "https://me:x@intake.example", "intake.example", "https://[x"):
        monkeypatch.setenv("DD_URL", odd)
        with pytest.raises(ConfigError, match="DD_URL"):
            datadog.Intake.from_environment()
    monkeypatch.setenv("DD_URL", "https://proxy.example:8443")
    assert datadog.Intake.from_environment().address == "https://proxy.example:8443"
    monkeypatch.setenv("DD_API_KEY", "key\nX-Other: 1")
    with pytest.raises(ConfigError, match="characters") as caught:
        datadog.Intake.from_environment()
    assert "X-Other" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("tracelake_tokens_total", "tracelake.tokens"),
        ("tracelake_odd-näme!_total", "tracelake.odd_n_me_"),
        ("9_lives", "lives"),
        ("tracelake_" + "x" * 300, "tracelake." + "x" * 190),
    ],
)
def test_datadog_names(given, expected):
    assert datadog.metric_name(given) == expected


def test_the_page_lists_every_metric():
    page = (Path(tracelake.__file__).parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `tracelake_")]
    expected = []
    for metric in METRICS.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        expected.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    assert rows == expected


def test_datadog_tags():
    assert datadog.tag("tag", "My Run, #1\n") == "tag:my_run_1"
    assert datadog.tag("model", "org/Model-7B:v1.0") == "model:org/model-7b:v1.0"
    assert len(datadog.tag("tag", "x" * 500)) == 200


# -- the command -------------------------------------------------------------------------------------------------------


def test_json_needs_no_client_library(folder, reading, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setitem(sys.modules, "datadog_api_client", None)
    monkeypatch.setenv("DD_API_KEY", KEY)
    command = ["metrics", "sums", "--lake", str(folder)]
    printed = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert list(printed) == ["run_id", "status", "profile", "metrics"] and printed["status"] == "complete"
    expected = json.loads(json.dumps(reading.as_dict()["metrics"]))
    assert [family["name"] for family in printed["metrics"]] == [family["name"] for family in expected]
    [tokens] = [family for family in printed["metrics"] if family["name"] == "tracelake_tokens_total"]
    assert tokens in expected and tokens["samples"][1]["value"] > 100
    monkeypatch.setattr(RunReader, "read", lambda reader: pytest.fail("read the lake before saying what is missing"))
    for words in ([], ["--serve", "--port", "0"], ["--push-gateway", "http://127.0.0.1:9"], ["--datadog"]):
        failed = CliRunner().invoke(app, [*command, *words])
        assert isinstance(failed.exception, ConfigError) and "pip install 'tracelake[sinks]'" in str(failed.exception)
        assert not failed.stdout


def test_the_command_sends_and_says_so(folder):
    with recording() as server:
        pushed = lake_metrics("sums", "--lake", folder, "--push-gateway", server.url, "--json")
        server.statuses = [202]
        sent = lake_metrics("sums", "--lake", folder, "--datadog", "--json", DD_API_KEY=KEY, DD_URL=server.url)
    assert json.loads(pushed.stdout)["job"] == "tracelake" and not pushed.stderr
    assert json.loads(sent.stdout)["series"] == len(checked_series(server.requests[1]))
    assert KEY not in sent.stdout + sent.stderr


def test_an_unfinished_run_is_said_to_be_unfinished(tmp_path):
    lake = Lake.create(tmp_path / "lake")
    with recording() as server, lake.start_run("half-run", {"kind": "read", "model": {"name": "m"}}):
        pushed = lake_metrics("--lake", lake.path, "--push-gateway", server.url)
    assert "is running: these are the numbers so far" in pushed.stderr
    assert pushed.returncode == 0 and b"tracelake_segments_total" in server.requests[0].body


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["nobody"], NotFoundError, "no run 'nobody'"),
        (["sums", "--profile", "gtp2"], UsageError, "no health profile"),
        (["sums", "--format", "promethus"], UsageError, "Did you mean 'prometheus'"),
        (["sums", "--serve", "--datadog"], UsageError, "Give one of"),
        (["sums", "-o", "nowhere/file.prom"], ConfigError, "cannot be written"),
        (["sums", "--serve", "--host", "192.0.2.1"], ConfigError, "Cannot listen"),
    ],
)
def test_mistakes_are_explained(folder, words, error, message):
    result = CliRunner().invoke(app, ["metrics", *words, "--lake", str(folder)])
    assert isinstance(result.exception, error) and isinstance(result.exception, LakeError)
    assert message in str(result.exception)


def test_a_taken_port_is_explained(folder):
    with recording() as other:
        port = other.url.rpartition(":")[2]
        result = CliRunner().invoke(app, ["metrics", "sums", "--serve", "--port", port, "--lake", str(folder)])
    assert isinstance(result.exception, ConfigError) and "--port" in str(result.exception)
