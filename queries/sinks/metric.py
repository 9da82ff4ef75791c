"""What is exported, as data: name, kind, labels and one sentence for every metric.

No label ever holds a token or text of a prompt or completion. Every sample also has the labels `run`, `tag`, `model`.
"""

from dataclasses import dataclass
from typing import Literal

BITS = (0.125, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Upper bounds of entropy and surprisal, in bits; 4 and 5 are thresholds of health profiles."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds of step latency, in seconds."""
RISKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
"""Upper bounds of risk scores."""


@dataclass(frozen=True)
class Metric:
    """One exported quantity; a histogram has the upper bounds of its buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Histogram:
    """Values of a histogram: how many are at most each bound, how many there are, and their sum."""

    bounds: tuple[float, ...]
    at_most: tuple[float, ...]
    count: float
    sum: float

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, values at most this), the last bound +Inf."""
        named = [(str(float(bound)), value) for bound, value in zip(self.bounds, self.at_most, strict=True)]
        return [*named, ("+Inf", self.count)]


@dataclass(frozen=True)
class Sample:
    """One value of a metric, with a value for every label."""

    labels: dict[str, str]
    value: float | Histogram


@dataclass(frozen=True)
class Family:
    """A metric with its samples."""

    metric: Metric
    samples: list[Sample]

    def as_dict(self) -> dict[str, object]:
        """The family as plain values for JSON."""
        return {
            "name": self.metric.name,
            "type": self.metric.kind,
            "help": self.metric.help,
            "samples": [_plain(sample) for sample in self.samples],
        }


def _plain(sample: Sample) -> dict[str, object]:
    value = sample.value
    if isinstance(value, Histogram):
        return {"labels": sample.labels, "count": value.count, "sum": value.sum, "buckets": dict(value.buckets())}
    return {"labels": sample.labels, "value": value}


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "tracelake_run_info",
            "gauge",
            "Always 1; the labels describe the run.",
            ("kind", "architecture", "device", "dtype"),
        ),
        Metric("tracelake_run_status", "gauge", "1 for the status that the run has, 0 for the others.", ("status",)),
        Metric("tracelake_run_created_timestamp_seconds", "gauge", "When the run was started."),
        Metric("tracelake_run_finished_timestamp_seconds", "gauge", "When the completion of the run was recorded."),
        Metric("tracelake_last_commit_timestamp_seconds", "gauge", "When the newest segment was committed."),
        Metric("tracelake_segments_planned", "gauge", "Segments of the plan of the run."),
        Metric("tracelake_segments_total", "counter", "Segments committed."),
        Metric("tracelake_sequences_total", "counter", "Sequences committed, by why they ended.", ("finish_reason",)),
        Metric(
            "tracelake_graded_sequences_total",
            "counter",
            "Sequences with a reference answer, by outcome.",
            ("outcome",),
        ),
        Metric("tracelake_tokens_total", "counter", "Tokens committed: prompt (as fed) or generated.", ("part",)),
        Metric("tracelake_tokens_per_second", "gauge", "Tokens committed over the wall time of the run.", ("part",)),
        Metric("tracelake_wall_seconds_total", "counter", "Wall time of collecting, from loading to the last segment."),
        Metric("tracelake_operation_seconds_total", "counter", "Time spent in an operation.", ("operation",)),
        Metric("tracelake_operation_calls_total", "counter", "Times an operation ran.", ("operation",)),
        Metric(
            "tracelake_step_latency_seconds",
            "histogram",
            "Wall time of the batch step that chose a token, one value per generated token.",
            (),
            SECONDS,
        ),
        Metric(
            "tracelake_token_entropy_bits",
            "histogram",
            "Entropy of the raw distribution that predicted a token, in bits.",
            ("part",),
            BITS,
        ),
        Metric(
            "tracelake_token_surprisal_bits",
            "histogram",
            "Surprisal of a token under the raw distribution, in bits.",
            ("part",),
            BITS,
        ),
        Metric("tracelake_stored_bytes", "gauge", "Size of the committed files of a table.", ("table",)),
        Metric("tracelake_stored_rows", "gauge", "Rows in the committed files of a table.", ("table",)),
        Metric(
            "tracelake_layer_norm_mean",
            "gauge",
            "Mean L2 norm of resid_post over all positions but the first, in model units.",
            ("layer",),
        ),
        Metric("tracelake_layer_norm_max", "gauge", "Largest of these norms.", ("layer",)),
        Metric("tracelake_state_nan_elements_total", "counter", "NaN elements in the observed states."),
        Metric("tracelake_state_inf_elements_total", "counter", "Infinite elements in the observed states."),
        Metric("tracelake_flagged_sequences_total", "counter", "Sequences with a health flag.", ("flag", "profile")),
        Metric(
            "tracelake_judged_sequences_total",
            "counter",
            "Sequences of which it is known whether they have the flag.",
            ("flag", "profile"),
        ),
        Metric(
            "tracelake_risk_mean", "gauge", "Mean risk score over the sequences that have one.", ("rule", "profile")
        ),
        Metric("tracelake_risk_max", "gauge", "Largest risk score of a sequence.", ("rule", "profile")),
        Metric(
            "tracelake_sequence_risk",
            "histogram",
            "Risk scores of the sequences.",
            ("rule", "profile"),
            RISKS,
        ),
        Metric(
            "tracelake_collapsed_heads_ratio",
            "gauge",
            "Mean over sequences of the share of collapsed attention heads.",
            ("profile",),
        ),
        Metric(
            "tracelake_focused_heads_ratio",
            "gauge",
            "Mean over sequences of the share of focused attention heads.",
            ("profile",),
        ),
    )
}
