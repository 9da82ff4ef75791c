"""Metrics for Datadog: one point per series, sent through datadog-api-client to the series intake, version 2.

Everything is a gauge: the values are totals so far, and a gauge that is sent twice is not counted twice.
"""

import os
import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ...lake.errors import ConfigError
from .client import client
from .metric import Histogram, Sample
from .run_numbers import RunNumbers

DEFAULT_SITE = "datadoghq.com"
SERIES_PER_REQUEST = 1000
"""About 300 kB before compression; the intake takes 512 kB after it."""
LONGEST = 200
TIMEOUT_S = (10, 30)  # to connect, to answer
BUSY = (429, 500, 502, 503, 504)
_UNITS = {"bytes": "byte", "seconds": "second"}


@dataclass(frozen=True)
class Intake:
    """Where to send and with what key; `url` replaces the site's own address, for a proxy."""

    site: str
    api_key: str = field(repr=False)
    url: str | None = None

    @classmethod
    def from_environment(cls, site: str | None = None) -> "Intake":
        """Key and site from DD_API_KEY, DD_SITE and DD_URL; ConfigError without a key."""
        key = os.environ.get("DD_API_KEY", "").strip()
        if not key:
            raise ConfigError(
                "There is no Datadog key: set the environment variable DD_API_KEY (and DD_SITE, if not datadoghq.com)."
            )
        if not re.fullmatch(r"[\x21-\x7e]+", key):
            raise ConfigError("DD_API_KEY has characters that no key has. Set it again.")
        chosen = site or os.environ.get("DD_SITE") or DEFAULT_SITE
        if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", chosen):
            raise ConfigError(f"Datadog site {chosen!r}: write it as datadoghq.eu or us5.datadoghq.com.")
        url = os.environ.get("DD_URL") or None
        if url is not None and not _is_safe(url):
            raise ConfigError(f"DD_URL {url!r}: the key would travel unprotected. Write https://HOST[:PORT].")
        return cls(chosen, key, url)

    @property
    def address(self) -> str:
        """Where the requests go."""
        return self.url or f"https://api.{self.site}"


def _is_safe(url: str) -> bool:
    """Whether a key may be sent there: encrypted, or to this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    secret = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"))
    return secret and bool(parts.hostname) and parts.username is None


def metric_name(name: str) -> str:
    """A name as Datadog stores it: ASCII letters, digits, `_` and `.`, a letter first, at most 200; no `_total`."""
    name = re.sub(r"[^A-Za-z0-9_.]", "_", name.removesuffix("_total").replace("tracelake_", "tracelake.", 1))
    return re.sub(r"^[^A-Za-z]+", "", name)[:LONGEST]


def tag(name: str, value: str) -> str:
    """A tag as Datadog stores it: lower case; letters, digits, `_ - : . /`; at most 200 characters."""
    clean = re.sub(r"[^\w\-:./]", "_", f"{name}:{value}".lower())
    return re.sub(r"_+", "_", clean)[:LONGEST].rstrip("_")


def points(reading: RunNumbers) -> list[tuple[str, float, list[str]]]:
    """(name, value, tags) of every series; a histogram becomes buckets (tag `upper_bound`), sum, count."""
    return [
        point
        for family in reading.families
        for sample in family.samples
        for point in _points(family.metric.name, sample)
    ]


def _points(name: str, sample: Sample) -> list[tuple[str, float, list[str]]]:
    metric, tags = metric_name(name), [tag(*label) for label in sample.labels.items()]
    value = sample.value
    if not isinstance(value, Histogram):
        return [(metric, value, tags)]
    buckets = [(f"{metric}.bucket", count, [*tags, tag("upper_bound", bound)]) for bound, count in value.buckets()]
    return [*buckets, (f"{metric}.sum", value.sum, tags), (f"{metric}.count", value.count, tags)]


def send(reading: RunNumbers, intake: Intake) -> int:
    """Send a reading and return the number of series; ConfigError if the intake refuses or cannot be reached."""
    datadog = client("datadog_api_client")
    metrics_api = client("datadog_api_client.v2.api.metrics_api")
    models = client("datadog_api_client.v2.models")
    now = int(time.time())
    series = [_series(models, *point, now) for point in points(reading)]
    configuration = datadog.Configuration(
        host=intake.address, api_key={"apiKeyAuth": intake.api_key}, request_timeout=TIMEOUT_S, retry_policy=_patience()
    )
    with datadog.ApiClient(configuration) as connection:
        api = metrics_api.MetricsApi(connection)
        for start in range(0, len(series), SERIES_PER_REQUEST):
            _submit(api, models, series[start : start + SERIES_PER_REQUEST], intake)
    return len(series)


def _patience() -> Any:
    """Try again when the intake is busy (gauges may come twice); never carry the key to where a redirect points."""
    retry = client("urllib3").Retry
    return retry(
        total=2,
        connect=0,
        redirect=False,
        allowed_methods=None,
        status_forcelist=BUSY,
        backoff_factor=1,
        raise_on_status=False,
    )


def _submit(api: Any, models: Any, series: list[Any], intake: Intake) -> None:
    api_error = client("datadog_api_client.exceptions").ApiException
    network_error = client("urllib3").exceptions.HTTPError
    try:
        api.submit_metrics(body=models.MetricPayload(series=series), content_encoding=models.MetricContentEncoding.GZIP)
    except api_error as error:
        if error.status in (401, 403):
            raise ConfigError(f"Datadog refused DD_API_KEY at {intake.address}. Is the site the key's own?") from None
        answer = str(error.body or error.reason)[:300].replace(intake.api_key, "***")
        raise ConfigError(f"Datadog at {intake.address} answered {error.status}: {answer}") from None
    except network_error as error:
        # The client's own text repeats the request; the kind of error is what helps.
        kind = type(getattr(error, "reason", None) or error).__name__
        raise ConfigError(f"Datadog at {intake.address} cannot be reached: {kind}.") from None


def _series(models: Any, name: str, value: float, tags: list[str], now: int) -> Any:
    unit = next((unit for ending, unit in _UNITS.items() if name.endswith(f"_{ending}")), None)
    return models.MetricSeries(
        metric=name,
        type=models.MetricIntakeType.GAUGE,
        points=[models.MetricPoint(timestamp=now, value=float(value))],
        tags=tags,
        **({"unit": unit} if unit else {}),
    )
