"""Logs of Inspect AI (`.eval`, `.json`) through its own package: samples, scores as grades, log-probabilities.

One sequence per sample and epoch: its last output. What was said before it is the prompt.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError, NotFoundError, UsageError
from ...values import Json, JsonView
from .completion import Alternative, Completion, ScoredToken, prompt_text, settings_columns

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample  # pyright: ignore[reportMissingImports]
    from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
        ChatCompletionChoice,
        ChatMessage,
        Logprobs,
    )

FORMAT = "inspect"
VERDICTS = {"C": True, "I": False, "N": False, True: True, False: False}
"""Values of scores that are right or wrong; `N` is no answer."""
NUMBERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_REASONS = {"max_tokens": "length", "model_length": "context"}
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile)
"""What the package raises over files that are no logs."""


def read_log(path: Path) -> Iterator[Completion]:
    """The samples of one log; UsageError if it is none, ConfigError if Inspect AI is not installed."""
    try:
        from inspect_ai.log import (  # pyright: ignore[reportMissingImports]
            read_eval_log,
            read_eval_log_samples,
        )
    except ImportError as error:
        raise ConfigError(
            "Logs of Inspect AI are read by its own package, which is not installed: pip install 'tracelake[inspect]'."
        ) from error
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.")
    try:
        header = read_eval_log(str(path), header_only=True)
        samples = read_eval_log_samples(str(path), all_samples_required=False)
        for sample in samples:
            yield sample_completion(header, sample)
    except _UNREADABLE as error:
        text = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} cannot be read as a log of Inspect AI: {text or type(error).__name__}.") from error


def sample_completion(header: "EvalLog", sample: "EvalSample") -> Completion:
    """One sample of a log in our words."""
    choice = sample.output.choices[0] if sample.output.choices else None
    settings = header.plan.config.model_dump(exclude_none=True) or header.eval.model_generate_config.model_dump()
    given = prompt_text(sample.input if isinstance(sample.input, str) else [_plain(m) for m in sample.input])
    usage = sample.output.usage
    columns, metrics, missing = _grades(sample)
    reason, why = _finish(choice, settings, sample)
    if why:
        missing["sequences.finish_reason"] = why
    return Completion(
        model=header.eval.model,
        item_id=str(sample.id),
        sample=sample.epoch - 1,
        prompt=given,
        text="" if choice is None else choice.message.text,
        tokens=None if choice is None or choice.logprobs is None else _tokens(choice.logprobs, settings),
        n_prompt=None if usage is None else usage.input_tokens,
        n_generated=None if usage is None else usage.output_tokens,
        columns={
            "rendered_prompt": _rendered(sample, choice, given),
            "dataset": header.eval.dataset.name or header.eval.task,
            "answer": sample.target if isinstance(sample.target, str) else " | ".join(sample.target),
            "finish_reason": reason,
            **settings_columns(settings),
            **columns,
        },
        metadata={
            "format": FORMAT,
            "task": header.eval.task,
            "eval_id": header.eval.eval_id,
            "created": header.eval.created,
            "sample_metadata": sample.metadata,
            "messages": len(sample.messages),
            "error": sample.error.message if sample.error else None,
        },
        metrics=metrics,
        missing=missing,
    )


def _plain(message: "ChatMessage") -> dict[str, str]:
    return {"role": message.role, "content": message.text}


def _rendered(sample: "EvalSample", choice: "ChatCompletionChoice | None", given: str) -> str | None:
    """What the model was shown, where it is not the sample's input alone; null where they are equal."""
    messages = list(sample.messages)
    if choice is not None and messages and messages[-1].role == "assistant":
        messages.pop()
    plain = [_plain(message) for message in messages]
    if not plain or (len(plain) == 1 and plain[0] == {"role": "user", "content": sample.input}):
        return None
    shown = prompt_text(plain)
    return None if shown == given else shown


def _tokens(logprobs: "Logprobs", settings: JsonView) -> tuple[ScoredToken, ...]:
    asked = settings.get("top_logprobs")
    return tuple(
        ScoredToken(
            text=entry.token,
            logprob=min(0.0, entry.logprob),
            data=bytes(entry.bytes) if entry.bytes is not None else None,
            alternatives=tuple(Alternative(o.token, min(0.0, o.logprob)) for o in entry.top_logprobs or ()),
            n_asked=asked if isinstance(asked, int) else None,
        )
        for entry in logprobs.content
    )


def _finish(
    choice: "ChatCompletionChoice | None", settings: JsonView, sample: "EvalSample"
) -> tuple[str | None, str | None]:
    if choice is None:
        return None, f"the sample has no output{': ' + sample.error.message if sample.error else ''}"
    if choice.stop_reason in _REASONS:
        return _REASONS[choice.stop_reason], None
    if choice.stop_reason == "stop" and not settings.get("stop_seqs"):
        return "eos", None
    return None, f"the log says {choice.stop_reason!r}, which does not tell an end token from a stop text"


def _grades(sample: "EvalSample") -> tuple[Json, dict[str, float], dict[str, str]]:
    """Columns of the first score, every score as a number, and why a verdict is missing."""
    scores = sample.scores or {}
    metrics: dict[str, float] = {}
    for name, score in scores.items():
        number = _number(score.value)
        if number is not None:
            metrics[f"score.{name}"] = number
    if not scores:
        return {}, metrics, {"sequences.correct": "the sample was not scored"}
    name, first = next(iter(scores.items()))
    verdict = _verdict(first.value)
    columns = {
        "correct": verdict,
        "predicted_answer": first.answer,
        "grader": f"inspect:{name}",
        "label_reason": None if verdict is not None else f"the score is {str(first.value)[:80]!r}",
    }
    missing = {} if verdict is not None else {"sequences.correct": "the score is neither right nor wrong"}
    return columns, metrics, missing


def _verdict(value: object) -> bool | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value == 1 if value in (0, 1) else None
    return VERDICTS.get(value) if isinstance(value, str | bool) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool | int | float):
        return float(value)
    return NUMBERS.get(value) if isinstance(value, str) else None
