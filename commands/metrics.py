"""`lake metrics`: its options, and where the numbers go."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import HERE, AllowHost, AnyRun, AsJson, LakePath, print_json, say

if TYPE_CHECKING:
    from ..queries.sinks.run_numbers import RunNumbers, RunReader


def metrics(
    run: AnyRun = "latest",
    form: Annotated[str, typer.Option("--format", "-f", help="prometheus (its text format) or json.")] = "prometheus",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead, replacing it whole: FILE.prom.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Answer Prometheus at /metrics until Ctrl-C.")] = False,
    host: Annotated[str, typer.Option(help="With --serve: address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --serve: port; 0 takes a free one.", min=0, max=65535)] = 9464,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="With --serve: read the lake at most this often.")
    ] = 5.0,
    allow_host: AllowHost = None,
    push_gateway: Annotated[
        str | None, typer.Option(metavar="URL", help="Replace the run's group at this Pushgateway.")
    ] = None,
    job: Annotated[str, typer.Option(help="With --push-gateway: the label job.")] = "tracelake",
    datadog: Annotated[bool, typer.Option("--datadog", help="Send to Datadog; the key is DD_API_KEY.")] = False,
    site: Annotated[str | None, typer.Option(help="With --datadog: site, instead of DD_SITE.")] = None,
    profile: Annotated[str, typer.Option(help="Thresholds of the health flags: default, gpt2, llama...")] = "default",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Give a run's numbers to Prometheus or Datadog: counts, uncertainty, flags, risk, time, sizes; never any text."""
    from ..lake.errors import UsageError, did_you_mean
    from ..lake.lake import Lake
    from ..queries.sinks.client import client
    from ..queries.sinks.run_numbers import RunReader

    if serve + datadog + (push_gateway is not None) + (output is not None) > 1:
        raise UsageError("Give one of --output, --serve, --push-gateway and --datadog.")
    if form not in ("prometheus", "json"):
        raise UsageError(f"--format {form!r}.{did_you_mean(form, ('prometheus', 'json'))}")
    if datadog:
        client("datadog_api_client")
    elif serve or push_gateway is not None or (form == "prometheus" and (output or not as_json)):
        client("prometheus_client")
    reader = RunReader(Lake.open(lake), run, profile)
    if serve:
        _serve(reader, host, port, interval, as_json, allow_host or [])
    elif push_gateway is not None:
        _push(reader, push_gateway, job, as_json)
    elif datadog:
        _send(reader, site, as_json)
    else:
        _write(reader, "json" if as_json and output is None else form, output, as_json)


def _serve(reader: "RunReader", host: str, port: int, interval: float, as_json: bool, allow_hosts: list[str]) -> None:
    from ..queries.hosts import LOOPBACK
    from ..queries.sinks.prometheus import make_endpoint

    with make_endpoint(reader, host, port, interval, allow_hosts) as server:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{server.server_port}/metrics"
        print_json({"url": url, "interval_s": interval}) if as_json else print(url)
        sys.stdout.flush()
        if host not in LOOPBACK:
            say("Whoever reaches this port can read the run's id, tag, model and numbers; there is no password.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")


def _final(reader: "RunReader") -> "RunNumbers":
    reading = reader.read()
    if reading.status != "complete":
        say(f"run {reading.run_id} is {reading.status}: these are the numbers so far")
    return reading


def _push(reader: "RunReader", url: str, job: str, as_json: bool) -> None:
    from ..queries.sinks.prometheus import push

    reading = _final(reader)
    push(reading, url, job)
    done = {"run_id": reading.run_id, "url": url, "job": job, "samples": reading.n_samples}
    print_json(done) if as_json else print(f"pushed {reading.n_samples} samples of {reading.run_id} to {url}")


def _send(reader: "RunReader", site: str | None, as_json: bool) -> None:
    from ..queries.sinks.datadog import Intake, send

    intake = Intake.from_environment(site)
    reading = _final(reader)
    n_series = send(reading, intake)
    done = {"run_id": reading.run_id, "url": intake.address, "series": n_series}
    print_json(done) if as_json else print(f"sent {n_series} series of {reading.run_id} to {intake.address}")


def _write(reader: "RunReader", form: str, output: Path | None, as_json: bool) -> None:
    from ..lake.output.files import replace_file

    if form == "prometheus":
        from ..queries.sinks.prometheus import text

        if output is not None and output.suffix != ".prom":
            say(f"{output}: node_exporter reads only files whose name ends in .prom")
        content = text(reader.read())
    else:
        content = json.dumps(reader.read().as_dict(), ensure_ascii=False).encode() + b"\n"
    if output is None:
        sys.stdout.write(content.decode())
        return
    replace_file(output, content)
    print_json({"file": str(output), "bytes": len(content)}) if as_json else print(output)
