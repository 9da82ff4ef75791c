"""What one CoreVital report says of its sequence as a whole: its row, its scores, and what it cannot say."""

import hashlib
import json
from collections.abc import Iterator

from ...values import Json, Row
from ..imported_rows import jsonable
from .conventions import Conventions
from .report import Report, ReportFile

FORMAT = "corevital"
AVERAGED = "the report has an average over the whole prompt, see imported_metrics"


def character_ends(report: Report) -> list[int] | None:
    """Characters of the completion that are complete after each token; None if the tokens' texts do not make it up."""
    texts = [step.token.token_text for _, step in report.steps]
    if len(texts) != len(report.generated.token_ids) or any(text is None for text in texts):
        return None
    completion, ends, end = report.generated.output_text, [], 0
    for place, text in enumerate(texts):
        assert text is not None
        if completion.startswith(text, end):
            end += len(text)
        elif place < len(texts) - 1:
            return None  # only an end token at the end may be missing from the completion
        ends.append(end)
    return ends if end == len(completion) else None


def sequence_row(found: ReportFile, reading: Conventions, sequence_id: int) -> Row:
    """The `sequences` row of one report."""
    report = found.report
    generation, n_generated = report.run_config.generation, len(report.generated.token_ids)
    metadata = {
        "format": FORMAT,
        "trace_id": report.trace_id,
        "schema_version": report.schema_version,
        "file": found.path.name,
        "file_sha256": found.sha256,
        "created_at": report.created_at_utc,
        "first_layer_entry": "embeddings" if reading.from_embeddings else "block 0",
        "collapsed_head_rule": "normalised" if reading.normalised_counts else "nats",
        "distribution": "raw" if reading.raw else "processed",
        "warnings": report.warnings,
        "extensions": report.extensions,
    }
    return {
        "sequence_id": sequence_id,
        "prompt_id": hashlib.sha256(report.prompt.text.encode()).hexdigest()[:16],
        "item_id": report.trace_id,
        "item_offset": 0,
        "sample": 0,
        "origin": "sampled" if reading.sampled else "greedy",
        "prompt": report.prompt.text,
        "completion": report.generated.output_text,
        "n_prompt_tokens": reading.n_prompt,
        "n_generated_tokens": n_generated,
        "finish_reason": "length" if n_generated == report.run_config.max_new_tokens else None,
        "temperature": generation.temperature if reading.sampled else 0.0,
        "top_p": generation.top_p if reading.sampled else None,
        "top_k": generation.top_k if reading.sampled else None,
        "seed": report.run_config.seed,
        "dataset": found.path.name,
        "metadata": json.dumps(jsonable({k: v for k, v in metadata.items() if v}), ensure_ascii=False),
        "batch_size": 1,
        "batch_index": 0,
    }


def unknowns(report: Report, reading: Conventions) -> dict[str, str]:
    """Observation columns that this report cannot fill, and why."""
    found = {}
    if not reading.raw:
        why = "the report measured the distribution after temperature, top-k, top-p and penalties"
        found |= dict.fromkeys(("token_steps.entropy_bits", "token_steps.logprob"), why)
    elif reading.sampled and reading.is_encoder_decoder:
        found["token_steps.sampling_logprob"] = "the report measured raw logits only"
    if not any(step.layers for _, step in report.steps):
        found["layer_summaries"] = "the report kept no layers"
    elif reading.averages_states(0):
        found["layer_summaries.l2_norm of step 0"] = AVERAGED
    if reading.from_embeddings:
        found[f"layer_summaries.l2_norm of layer {reading.n_layers - 1}"] = "the report has no output of the last block"
    found["layer_summaries.cos_prev_position"] = "the report has no cosine of one state to another"
    if len(report.generated.token_ids) != report.run_config.max_new_tokens:
        found["sequences.finish_reason"] = "the report does not say why generation ended"
    return found


def reported_scores(extensions: Json) -> Iterator[tuple[str, float]]:
    """Scores among the extensions, which have no fixed shape."""
    wanted = {"risk": "risk_score", "early_warning": "failure_risk", "calibration": "divergence_score"}
    for part, name in wanted.items():
        value = extensions[part].get(name) if isinstance(extensions.get(part), dict) else None
        if isinstance(value, int | float):
            yield name, float(value)
