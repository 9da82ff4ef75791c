"""Metrics for Prometheus: the text format, an HTTP endpoint that reads on scrape, and the Pushgateway."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from socketserver import ThreadingMixIn
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from ...lake.errors import ConfigError, LakeError, UsageError
from ...lake.values import Json
from ..hosts import HEADERS, Hosts
from .client import client
from .metric import Family, Histogram
from .run_numbers import RunNumbers, RunReader

PUSH_TIMEOUT_S = 30
_HOME = b"tracelake: the metrics are at /metrics\n"


class _Collector:
    """What prometheus-client asks for metrics when it writes them."""

    def __init__(self, families: list[Family]) -> None:
        self.families = families

    def collect(self) -> Iterator[Any]:
        core = client("prometheus_client.core")
        kinds = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        for family in self.families:
            metric = family.metric
            # Not every run has every common label: a run without tag has no label `tag`.
            names = list(family.samples[0].labels)
            written = kinds[metric.kind](metric.name, metric.help, labels=names)
            for sample in family.samples:
                labels = [sample.labels[name] for name in names]
                if isinstance(sample.value, Histogram):
                    written.add_metric(labels, sample.value.buckets(), sample.value.sum)
                else:
                    written.add_metric(labels, sample.value)
            yield written


def registry(reading: RunNumbers) -> Any:
    """A prometheus-client registry that holds one reading."""
    registered = client("prometheus_client").CollectorRegistry(auto_describe=False)
    registered.register(_Collector(reading.families))
    return registered


def text(reading: RunNumbers) -> bytes:
    """The reading in Prometheus' text format, version 0.0.4, for the textfile collector of node_exporter."""
    return client("prometheus_client").generate_latest(registry(reading))


def push(reading: RunNumbers, url: str, job: str = "tracelake") -> None:
    """Replace the Pushgateway's group of (job, run) by a reading; ConfigError if the gateway cannot be reached.

    User and password come from TRACELAKE_PUSHGATEWAY_USER and TRACELAKE_PUSHGATEWAY_PASSWORD.
    """
    exposition = client("prometheus_client.exposition")
    _check_address(url)
    user, password = (os.environ.get(f"TRACELAKE_PUSHGATEWAY_{name}") for name in ("USER", "PASSWORD"))
    handler = partial(exposition.basic_auth_handler, username=user, password=password)
    group = {"run": reading.run_id}
    try:
        exposition.push_to_gateway(
            url, job, registry(reading), grouping_key=group, timeout=PUSH_TIMEOUT_S, handler=handler
        )
    except HTTPError as error:
        raise ConfigError(f"The Pushgateway at {url} answered {error.code} {error.reason}: {_answer(error)}") from error
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"The Pushgateway at {url} cannot be reached: {reason}. Nothing was pushed.") from error


def _check_address(url: str) -> None:
    """Refuse an address that is none, or that carries a password, which would stay in the shell's history."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
        parts = None
    if not usable or parts is None:
        raise UsageError(f"--push-gateway {url!r}: write http://HOST:PORT.")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "--push-gateway: leave user and password out of the address; "
            "set TRACELAKE_PUSHGATEWAY_USER and TRACELAKE_PUSHGATEWAY_PASSWORD."
        )


def _answer(error: HTTPError) -> str:
    return error.read(500).decode("utf-8", "replace").strip() or "no explanation"


class Endpoint:
    """A WSGI application: `/metrics` is the newest reading, at most `interval_s` old when segments are coming."""

    def __init__(self, reader: RunReader, interval_s: float, hosts: Hosts) -> None:
        """Reads once, so that a run that cannot be read is an error now and the first scrape is quick."""
        self.reader, self.interval_s, self.hosts = reader, interval_s, hosts
        self._lock = threading.Lock()
        self._registry: Any = None
        self._read_at = 0.0
        self.current()

    def current(self) -> Any:
        """The registry of the newest reading; reads the lake if the last one is older than the interval."""
        with self._lock:
            if self._registry is None or time.monotonic() - self._read_at >= self.interval_s:
                # A failed reading counts too: a damaged lake is not read more often than a sound one.
                self._registry, self._read_at = None, time.monotonic()
                self._registry = registry(self.reader.read())
            return self._registry

    def __call__(self, environ: Json, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        plain = [("Content-Type", "text/plain; charset=utf-8"), *HEADERS.items()]
        sent = ([environ[name]] if name in environ else [] for name in ("HTTP_HOST", "HTTP_ORIGIN"))
        if refused := self.hosts.refusal(*sent):
            start_response("403 Forbidden", plain)
            return [f"{refused}\n".encode()]
        if environ["PATH_INFO"] == "/":
            start_response("200 OK", plain)
            return [_HOME]
        if environ["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", plain)
            return [_HOME]
        try:
            current = self.current()
        except LakeError as error:
            # Prometheus then records up = 0, and the message shows on its page of targets.
            start_response("503 Service Unavailable", plain)
            return [f"{error}\n".encode()]
        return client("prometheus_client").make_wsgi_app(current)(environ, start_response)


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request, so that a slow client does not keep others waiting."""

    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """Leaves no line per scrape on the terminal."""

    timeout = 30  # of a client that sends nothing

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def make_endpoint(
    reader: RunReader, host: str, port: int, interval_s: float, allow_hosts: Sequence[str] = ()
) -> WSGIServer:
    """A server of the reader's run that listens but does not answer yet; ConfigError if the address is not free.

    It answers to the loopback names, to the address it listens on if one was given, and to `allow_hosts`.
    """
    everywhere = host in ("", "0.0.0.0", "::")
    endpoint = Endpoint(reader, interval_s, Hosts.of(*allow_hosts, *([] if everywhere else [host])))
    kind = _Server6 if ":" in host else _Server
    try:
        return make_server(host, port, endpoint, kind, _Quiet)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error}. Choose another with --host and --port; port 0 takes a free one."
        ) from error
