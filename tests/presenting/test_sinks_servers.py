"""`lake metrics` with the real Prometheus, promtool and Pushgateway; `make test-sinks` gets them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from made_metrics import HOSTILE, hand_made, lake_metrics
from sink_servers import free_port, program, running, until

import tracelake
from tracelake.queries.sinks import prometheus
from tracelake.queries.sinks.run_numbers import RunReader


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    program("prometheus")  # skips before anything is collected
    path = tmp_path_factory.mktemp("servers") / "lake"
    settings = {"dataset": "tinymath:test", "limit": 8, "samples": 2, "max_new_tokens": 24, "segment_items": 2}
    tracelake.collect(path, keep=["tokens", "layers", "heads"], tag="sums", **settings)
    return tracelake.open(path)


def lint(text):
    """What promtool finds wrong with a text; an error of the format is one too."""
    done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=60)
    return (done.stderr + done.stdout).decode().splitlines()


def test_promtool_accepts_the_text(lake, tmp_path):
    # It takes every `bits` for an amount of data; here they are the unit of entropy, as in the lake's columns.
    information = [
        f'tracelake_token_{what}_bits use base unit "bytes" instead of "bits"' for what in ("entropy", "surprisal")
    ]
    assert lint(prometheus.text(RunReader(lake, "sums").read())) == information
    hostile = hand_made(tmp_path / "lake", tag=HOSTILE.replace("\x00", ""), model={"name": HOSTILE, "n_layers": 1})
    assert lint(prometheus.text(RunReader(hostile, "latest").read())) == []
    assert lint(b'tracelake_x{a="b} 1\n')


@pytest.fixture(scope="module")
def ask(lake, tmp_path_factory):
    """PromQL over a Prometheus that scrapes `lake metrics sums --serve` each second: {labels: value} of a vector."""
    prometheus_program = program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    endpoint, port = free_port(), free_port()
    job = {"job_name": "tracelake", "static_configs": [{"targets": [f"127.0.0.1:{endpoint}"]}]}
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    serving = [sys.executable, "-m", "tracelake.cli", "metrics", "sums", "--serve", "--port", str(endpoint)]
    scraping = [prometheus_program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    scraping += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]

    def query(promql):
        with urlopen(f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': promql})}") as response:
            result = json.load(response)["data"]["result"]
        return {tuple(sorted(row["metric"].items())): float(row["value"][1]) for row in result}

    with (
        running([*serving, "--lake", str(lake.path)], f"http://127.0.0.1:{endpoint}/metrics"),
        running(scraping, f"http://127.0.0.1:{port}/-/ready"),
    ):
        until(lambda: query('up{job="tracelake"} == 1'), 30)
        yield query


@pytest.mark.parametrize(
    ("promql", "sql"),
    [
        ("sum(tracelake_tokens_total)", "select count(*) from token_steps"),
        ('tracelake_tokens_total{part="generated"}', "select sum(n_generated_tokens) from sequences"),
        ("sum(tracelake_sequences_total)", "select count(*) from sequences"),
        (
            'tracelake_sequences_total{finish_reason="length"}',
            "select count(*) from sequences where finish_reason = 'length'",
        ),
        (
            'tracelake_token_entropy_bits_sum{part="generated"} / tracelake_token_entropy_bits_count',
            "select avg(entropy_bits::double) from token_steps where not is_prompt",
        ),
        (
            'tracelake_token_surprisal_bits_bucket{le="4.0", part="prompt"}',
            "select count(*) from token_steps where is_prompt and surprisal_bits <= 4",
        ),
        (
            'tracelake_flagged_sequences_total{flag="attention_collapse"} / tracelake_judged_sequences_total',
            "select avg(attention_collapse::int) from risk_scores where profile = 'default'",
        ),
        ('tracelake_risk_max{rule="v05"}', "select max(risk_v05) from risk_scores where profile = 'default'"),
        (
            "max(tracelake_layer_norm_max)",
            "select max(l2_norm) from layer_summaries where site = 'resid_post' and position > 0",
        ),
        ("tracelake_wall_seconds_total", "select sum(total_ms) / 1000 from operations where name = 'wall'"),
    ],
)
def test_promql_answers_as_sql_does(lake, ask, promql, sql):
    [answer] = ask(promql).values()
    assert answer == pytest.approx(float(lake.sql(sql).item()), rel=1e-6) and answer > 0


def test_series_carry_the_run(lake, ask):
    [labels] = ask("tracelake_run_info")
    expected = {
        "run": lake.resolve_run("sums"),
        "tag": "sums",
        "model": "tinymath",
        "job": "tracelake",
        "device": "cpu",
    }
    assert dict(labels).items() >= expected.items()


PAGE = (Path(tracelake.__file__).parent / "docs" / "metrics.md").read_text(encoding="utf-8")


def blocks(language):
    """Blocks of the page about metrics."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_what_the_page_asks_is_understood(ask, tmp_path):
    [questions] = blocks("promql")
    for question in questions.splitlines():
        ask(question)  # an error is an HTTP error
    assert ask("tracelake_flagged_sequences_total / tracelake_judged_sequences_total > 0.2")
    [config] = blocks("yaml")
    file = tmp_path / "prometheus.yml"
    file.write_text(config)
    subprocess.run([program("promtool"), "check", "config", str(file)], check=True, capture_output=True, timeout=60)


def test_the_pushgateway_holds_the_last_push_of_a_run(lake):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [program("prometheus-pushgateway"), f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with running(command, f"{url}/-/ready"):
        for profile in ("default", "gpt2"):
            pushed = lake_metrics("sums", "--push-gateway", url, "--profile", profile, "--lake", lake.path)
            assert pushed.returncode == 0, pushed.stderr
        with urlopen(f"{url}/api/v1/metrics") as response:
            [group] = json.load(response)["data"]
        with urlopen(f"{url}/metrics") as response:
            text = response.read().decode()
    assert group["labels"] == {"job": "tracelake", "run": lake.resolve_run("sums")}
    assert group["last_push_successful"] is True
    metrics = {metric["labels"]["part"]: metric["value"] for metric in group["tracelake_tokens_total"]["metrics"]}
    assert float(metrics["generated"]) == lake.sql("select sum(n_generated_tokens) from sequences").item()
    # The second push replaced the first: no series under the earlier profile is left.
    assert 'profile="gpt2"' in text and 'profile="default"' not in text
