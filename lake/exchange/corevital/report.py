"""A CoreVital JSON report as typed data: read, checked, and how its entries are to be understood.

Versions 0.2 to 0.5. Unknown fields are ignored, missing ones are None; NaN and infinity are numbers here.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import NotFoundError, UsageError
from ...values import Json

VERSIONS = ("0.2", "0.3", "0.4", "0.5")
MAX_BYTES = 256 << 20
_VERSION = re.compile(r"(0\.\d+)(\.\d+)?([-+.].*)?")

Id = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**15)]
FirstLayer = Literal["auto", "embeddings", "block"]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())


class Quantization(_Part):
    """Whether the weights were quantized."""

    enabled: bool | None = None
    method: str | None = None


class Model(_Part):
    """The model that was watched."""

    hf_id: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    architecture: str
    num_layers: Annotated[int, Field(gt=0, le=10_000)]
    hidden_size: Id | None = None
    num_attention_heads: Annotated[int, Field(gt=0, lt=2**15)]
    dtype: str | None = None
    device: str | None = None
    quantization: Quantization | None = None


class Generation(BaseModel):
    """How tokens were chosen; whatever else is written there is kept, for penalties."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


class RunConfig(_Part):
    """Settings of the run."""

    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_new_tokens: Id | None = None
    generation: Generation = Generation()


class Prompt(_Part):
    """The prompt."""

    text: str
    token_ids: Annotated[list[Id], Field(min_length=1)]


class Generated(_Part):
    """What was generated."""

    output_text: str
    token_ids: list[Id]


class Token(_Part):
    """One generated token."""

    token_id: Id
    token_text: str | None = None


class Candidate(_Part):
    """One of the most probable tokens; its probability is rounded to three decimals."""

    token_id: Id
    prob: float | None = None


class Logits(_Part):
    """Numbers about the distribution that a token was drawn from: entropy and surprisal in bits."""

    entropy: float | None = None
    surprisal: float | None = None
    perplexity: float | None = None
    top_k_margin: float | None = None
    top1_top2_margin: float | None = None
    topk_mass: float | None = None
    voter_agreement: float | None = None
    topk: list[Candidate] | None = None
    topk_probs: list[Candidate] | None = None


class Hidden(_Part):
    """Numbers about one entry of the model's hidden states."""

    l2_norm_mean: float | None = None
    mean: float | None = None
    std: float | None = None
    max_abs: float | None = None
    sketch: list[float | None] | None = None
    clipped: bool | None = None


class Attention(_Part):
    """Numbers about one layer's attention; entropies in nats."""

    entropy_mean: float | None = None
    entropy_min: float | None = None
    entropy_max: float | None = None
    entropy_mean_normalized: float | None = None
    concentration_max: float | None = None
    concentration_min: float | None = None
    collapsed_head_count: Count | None = None
    collapsed_head_rate: float | None = None
    focused_head_count: Count | None = None
    max_weight_per_head: list[float | None] | None = None


class Anomalies(_Part):
    """Whether hidden states, attention or cross-attention have NaN or infinity."""

    has_nan: bool | None = None
    has_inf: bool | None = None


class Layer(_Part):
    """One entry of a step's layers."""

    layer_index: Id
    hidden_summary: Hidden | None = None
    attention_summary: Attention | None = None
    cross_attention: Attention | None = None
    anomalies: Anomalies | None = None


class Step(_Part):
    """One generated token with what led to it."""

    step_index: Id
    token: Token
    logits_summary: Logits | None = None
    layers: list[Layer] | None = None


class Edges(_Part):
    """Heavy attention weights of one head over the prompt."""

    query_indices: list[Id] = []
    key_indices: list[Id] = []
    weights: list[float] = []


class PromptLayer(_Part):
    """One layer's attention over the prompt."""

    heads: list[Edges] | None = None
    basin_scores: list[float | None] | None = None


class PromptAnalysis(_Part):
    """How the prompt was read."""

    layers: list[PromptLayer] | None = None
    layer_transformations: list[float | None] | None = None
    prompt_surprisals: list[float | None] | None = None


class HealthFlags(_Part):
    """The report's own verdicts."""

    nan_detected: bool | None = None
    inf_detected: bool | None = None
    attention_collapse_detected: bool | None = None
    attention_collapse_severity: float | None = None
    high_entropy_steps: Id | None = None
    repetition_loop_detected: bool | None = None
    mid_layer_anomaly_detected: bool | None = None


class Summary(_Part):
    """Sizes and time of the whole run."""

    elapsed_ms: float | None = None


class Report(_Part):
    """One report: one prompt, one completion."""

    schema_version: str
    trace_id: Annotated[str, Field(min_length=1, max_length=200)]
    created_at_utc: str | None = None
    model: Model
    run_config: RunConfig = RunConfig()
    prompt: Prompt
    generated: Generated
    timeline: list[Step] | None = None
    summary: Summary | None = None
    warnings: list[object] | None = None
    encoder_layers: list[Layer] | None = None
    prompt_analysis: PromptAnalysis | None = None
    health_flags: HealthFlags | None = None
    extensions: Json | None = None

    @property
    def version(self) -> str:
        """Major and minor version: 0.2 to 0.5."""
        return self.schema_version[:3]

    @property
    def steps(self) -> list[tuple[int, Step]]:
        """The timeline with 0-based steps; `step_index` counts from the length of the prompt."""
        return [(step.step_index - len(self.prompt.token_ids), step) for step in self.timeline or []]


@dataclass(frozen=True)
class ReportFile:
    """A report with the file it came from."""

    path: Path
    sha256: str
    report: Report


def read_report(path: Path) -> ReportFile:
    """Read and check one report; UsageError naming the file and the first thing that is wrong with it."""
    data = _read(path)
    try:
        found = pydantic_core.from_json(data)
    except ValueError as error:
        raise UsageError(f"{path} is no JSON, or was cut short: {error}. Give the report again, whole.") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds a JSON {type(found).__name__}; a CoreVital report is an object.")
    _check_version(path, found)
    try:
        report = Report.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        count = f" ({error.error_count()} such problems)" if error.error_count() > 1 else ""
        raise UsageError(f"{path} is no CoreVital report: {place}: {first['msg']}{count}.") from error
    for problem in _contradictions(report):
        raise UsageError(f"{path} contradicts itself: {problem}.")
    return ReportFile(path, hashlib.sha256(data).hexdigest(), report)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} has more than {MAX_BYTES >> 20} MiB; reports of one generation are far smaller.")
    return data


def _check_version(path: Path, found: Json) -> None:
    version = found.get("schema_version")
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None or match[1] not in VERSIONS:
        given = "none" if version is None else repr(version)[:40]
        raise UsageError(f"{path}: schema_version is {given}; reports of versions {', '.join(VERSIONS)} can be read.")


def _contradictions(report: Report) -> list[str]:
    """What the types allow and the meaning does not."""
    problems = []
    n_layers, generated = report.model.num_layers, report.generated.token_ids
    steps = report.steps
    for place, (step, entry) in enumerate(steps):
        if not 0 <= step < len(generated) or (place and step <= steps[place - 1][0]):
            problems.append(
                f"timeline.{place}.step_index is {entry.step_index}; with {len(report.prompt.token_ids)} prompt and "
                f"{len(generated)} generated tokens, in order, it cannot be"
            )
        elif entry.token.token_id != generated[step]:
            problems.append(f"timeline.{place} has token {entry.token.token_id}, generated.token_ids {generated[step]}")
        problems += _layer_problems(f"timeline.{place}.layers", entry.layers or [], n_layers)
    problems += _layer_problems("encoder_layers", report.encoder_layers or [], n_layers)
    return problems[:1] or _prompt_problems(report)


def _layer_problems(place: str, layers: list[Layer], n_layers: int) -> list[str]:
    indexes = [layer.layer_index for layer in layers]
    if len(set(indexes)) < len(indexes) or any(index >= n_layers for index in indexes):
        return [f"{place} has the indexes {indexes[:8]}...; the model has {n_layers} layers"]
    return []


def _prompt_problems(report: Report) -> list[str]:
    analysis = report.prompt_analysis
    if analysis is None:
        return []
    n_prompt, n_heads = len(report.prompt.token_ids), report.model.num_attention_heads
    if len(analysis.layers or []) > report.model.num_layers:
        return [f"prompt_analysis has {len(analysis.layers or [])} layers, the model {report.model.num_layers}"]
    if len(analysis.prompt_surprisals or []) >= n_prompt:
        return [f"{len(analysis.prompt_surprisals or [])} prompt surprisals for {n_prompt} prompt tokens"]
    for index, layer in enumerate(analysis.layers or []):
        place = f"prompt_analysis.layers.{index}"
        if max(len(layer.heads or []), len(layer.basin_scores or [])) > n_heads:
            return [f"{place} has more than the model's {n_heads} heads"]
        for head, edges in enumerate(layer.heads or []):
            pairs = list(zip(edges.query_indices, edges.key_indices, strict=False))
            if not len(edges.query_indices) == len(edges.key_indices) == len(edges.weights):
                return [f"{place}.heads.{head} has lists of different lengths"]
            if any(max(pair) >= n_prompt for pair in pairs) or len(set(pairs)) < len(pairs):
                return [f"{place}.heads.{head} names an edge twice, or a token outside the prompt"]
    return []
