"""Responses of OpenAI-compatible interfaces (vLLM and llama.cpp among them), read into `Completion`s.

A response comes alone, beside its request, or in a line of a batch file. Only what the published layouts say is read.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pydantic_core

from ...errors import NotFoundError, UsageError
from ...values import Json, JsonView
from .completion import VERY_UNLIKELY, Alternative, Completion, ScoredToken, prompt_text, settings_columns

MAX_BYTES, MAX_LINE_BYTES = 256 << 20, 16 << 20
Kind = TypeVar("Kind", dict, list, str)
_TOKEN_ID = re.compile(r"token_id:(\d+)")
_LLAMA_STOPS = {"eos": "eos", "limit": "length", "word": "stop_string"}


class Unfit(Exception):
    """What is wrong with one response; the caller names file and place."""


@dataclass(frozen=True)
class Entry:
    """One response with its request and id, where the file has them."""

    where: str
    response: Mapping[str, object] | None
    """None if the request failed: there is nothing to import."""
    request: Mapping[str, object]
    custom_id: str | None


def read_entries(path: Path) -> Iterator[Entry]:
    """Every response of a file: one JSON object, a list of them, or one per line."""
    data = _content(path)
    text = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    first, _, rest = text.partition(b"\n")
    lines = bool(rest.strip()) and _json(first) is not None
    if not lines:
        whole = _json(text)
        if whole is None:
            raise UsageError(f"{path} is no JSON and has no JSON line first: nothing of it can be read.")
        for number, value in enumerate(whole if isinstance(whole, list) else [whole], start=1):
            yield entry(value, f"{path}, response {number}")
        return
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE_BYTES:
            raise UsageError(f"{path}, line {number} has more than {MAX_LINE_BYTES >> 20} MiB.")
        value = _json(line.removeprefix(b"\xef\xbb\xbf"))
        if value is None:
            raise UsageError(f"{path}, line {number} is no JSON, or was cut short.")
        yield entry(value, f"{path}, line {number}")


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} has more than {MAX_BYTES >> 20} MiB: split it into several files.")
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error


def _json(data: bytes) -> object:
    try:
        return pydantic_core.from_json(data, allow_inf_nan=True)
    except ValueError:
        return None


def entry(value: object, where: str) -> Entry:
    """A response out of what may stand around it: a batch's line, or a pair of request and response."""
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected an object, found {str(value)[:40]!r}.")
    request, response = value.get("request"), value
    if isinstance(value.get("response"), dict):
        response = value["response"].get("body", value["response"])
    elif "custom_id" in value and value.get("response") is None:
        return Entry(where, None, {}, str(value["custom_id"]))
    if isinstance(request, dict) and isinstance(request.get("body"), dict):
        request = request["body"]
    if isinstance(response, dict) and response.get("error") and not response.get("choices"):
        response = None
    if response is not None and not isinstance(response, dict):
        raise UsageError(f"{where}: the response is no object.")
    custom = value.get("custom_id")
    return Entry(where, response, request if isinstance(request, dict) else {}, None if custom is None else str(custom))


def read_requests(path: Path) -> dict[str, Mapping[str, object]]:
    """The requests of a batch file, by `custom_id`."""
    found: dict[str, Mapping[str, object]] = {}
    for number, line in enumerate(_content(path).splitlines(), start=1):
        if not line.strip():
            continue
        value = _json(line)
        if not isinstance(value, dict) or "custom_id" not in value or not isinstance(value.get("body"), dict):
            raise UsageError(f"{path}, line {number}: expected a batch request with `custom_id` and `body`.")
        found[str(value["custom_id"])] = value["body"]
    return found


def completions(one: Entry, requests: Mapping[str, Mapping[str, object]], *, processed: bool) -> list[Completion]:
    """The completions of one response, a sample each; UsageError that names the place of what is no response."""
    if one.response is None:
        return []
    request = one.request or requests.get(one.custom_id or "", {})
    try:
        if "choices" in one.response:
            return _chosen(one, one.response, request, processed)
        if "content" in one.response and ("completion_probabilities" in one.response or "stop_type" in one.response):
            return [_llama_cpp(one, one.response, request, processed)]
    except Unfit as error:
        raise UsageError(f"{one.where}: {error}.") from error
    kind = one.response.get("object", "nothing that is known")
    raise UsageError(
        f"{one.where}: expected a response of a chat or completions interface (with `choices`), or of llama.cpp's "
        f"/completion; this is {str(kind)[:40]!r}."
    )


def _chosen(
    one: Entry, response: Mapping[str, object], request: Mapping[str, object], processed: bool
) -> list[Completion]:
    if str(response.get("object", "")).endswith(".chunk"):
        raise Unfit("this is one chunk of a stream; save whole responses (stream=False), or join the chunks")
    choices = _of(response.get("choices"), list, "choices")
    found = []
    for place, choice in enumerate(choices):
        choice = _of(choice, dict, f"choices[{place}]")
        index = choice.get("index", place)
        tokens, prompt_tokens, text = _tokens(choice, response, request)
        asked = request.get("top_logprobs", request.get("logprobs"))
        if tokens is not None and isinstance(asked, int) and not isinstance(asked, bool):
            tokens, prompt_tokens = (
                tuple(replace(token, n_asked=asked) for token in part) for part in (tokens, prompt_tokens)
            )
        reason, why = _finish(choice, request)
        usage = response.get("usage") or {}
        n_prompt = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        n_generated = usage.get("completion_tokens") if isinstance(usage, dict) and len(choices) == 1 else None
        found.append(
            Completion(
                model=str(response.get("model") or request.get("model") or "unknown"),
                item_id=one.custom_id or str(response.get("id") or one.where.rpartition(", ")[2]),
                sample=index if isinstance(index, int) else place,
                prompt=_prompt(request),
                text=text,
                tokens=tokens,
                prompt_tokens=prompt_tokens,
                n_prompt=n_prompt if isinstance(n_prompt, int) else None,
                n_generated=n_generated if isinstance(n_generated, int) else None,
                columns={"finish_reason": reason, **settings_columns(request)},
                processed=processed,
                metadata=_about(response, choice),
                missing={
                    **({"sequences.finish_reason": why} if why else {}),
                    **({} if request else {"sequences.prompt": "the file has responses without their requests"}),
                },
            )
        )
    return found


def _about(response: JsonView, choice: JsonView) -> Json:
    names = ("id", "object", "created", "system_fingerprint", "usage", "service_tier", "timings")
    about = {name: response[name] for name in names if response.get(name) is not None}
    message = choice.get("message") or {}
    extra = {name: message[name] for name in ("tool_calls", "refusal", "reasoning_content") if message.get(name)}
    return {"format": "logprobs", "response": about | {"finish_reason": choice.get("finish_reason")} | extra}


def _prompt(request: JsonView) -> str | None:
    given = request.get("messages", request.get("prompt"))
    return prompt_text(given) if isinstance(given, str | list) else None


def _tokens(
    choice: Mapping[str, object], response: Mapping[str, object], request: Mapping[str, object]
) -> tuple[tuple[ScoredToken, ...] | None, tuple[ScoredToken, ...], str]:
    """Tokens of the completion, those of the prompt where it is echoed, and the completion's text."""
    logprobs = choice.get("logprobs")
    if "message" in choice:
        message = _of(choice["message"], dict, "message")
        text = message.get("content") or ""
        text = text if isinstance(text, str) else prompt_text(text)
        content = (logprobs or {}).get("content") if isinstance(logprobs, dict) else None
        if content is None:
            return None, (), text
        return tuple(map(scored, _of(content, list, "logprobs.content"))), (), text
    text = _of(choice.get("text", ""), str, "text")
    if not isinstance(logprobs, dict):
        return None, (), text
    if logprobs.get("content") is not None:
        return tuple(map(scored, _of(logprobs["content"], list, "logprobs.content"))), (), text
    tokens = _listed(logprobs)
    n_echoed = _n_echoed(logprobs, response, request)
    prompt = "".join(token.text for token in tokens[:n_echoed])
    return tokens[n_echoed:], tokens[:n_echoed], text.removeprefix(prompt)


def scored(described: object) -> ScoredToken:
    """A token as chat interfaces and llama.cpp describe it."""
    value = _of(described, dict, "a token")
    text, data = _of(value.get("token"), str, "token"), value.get("bytes")
    raw = bytes(data) if isinstance(data, list) and all(isinstance(b, int) and 0 <= b < 256 for b in data) else None
    given, token_id = value.get("id"), None
    if isinstance(given, int) and not isinstance(given, bool):
        token_id = given
    elif match := _TOKEN_ID.fullmatch(text):
        token_id = int(match[1])
    shown = raw.decode(errors="replace") if raw is not None and raw.decode(errors="replace") != text else text
    others = value.get("top_logprobs") or []
    alternatives = [scored(other) for other in _of(others, list, "top_logprobs")] if others else []
    return ScoredToken(
        text=shown,
        logprob=_number(value.get("logprob")),
        token_id=token_id,
        data=None if _TOKEN_ID.fullmatch(shown) else raw,
        alternatives=tuple(
            Alternative(other.text, other.logprob, other.token_id)
            for other in alternatives
            if other.logprob is not None and other.logprob > VERY_UNLIKELY
        ),
    )


def _listed(logprobs: JsonView) -> tuple[ScoredToken, ...]:
    """Tokens as completions interfaces list them: parallel lists."""
    tokens = _of(logprobs.get("tokens"), list, "logprobs.tokens")
    values = _of(logprobs.get("token_logprobs"), list, "logprobs.token_logprobs")
    best = logprobs.get("top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(values) == len(best):
        raise Unfit("logprobs.tokens, token_logprobs and top_logprobs are of different lengths")
    found = []
    for token, value, others in zip(tokens, values, best, strict=True):
        text, data, token_id = _spelled(_of(token, str, "a token"))
        alternatives = []
        for name, logprob in (others or {}).items() if isinstance(others, dict | None) else ():
            other_text, _, other_id = _spelled(name)
            number = _number(logprob)
            if number is not None and number > VERY_UNLIKELY:
                alternatives.append(Alternative(other_text, number, other_id))
        found.append(ScoredToken(text, _number(value), token_id, data, tuple(alternatives)))
    return tuple(found)


def _spelled(token: str) -> tuple[str, bytes | None, int | None]:
    """Text, bytes and id of a token as it is written: `bytes:\\xe2\\x80`, `token_id:5`, or plainly."""
    if match := _TOKEN_ID.fullmatch(token):
        return token, None, int(match[1])
    if token.startswith("bytes:") and re.fullmatch(r"bytes:(\\x[0-9a-fA-F]{2}|[ -~])+", token):
        data = re.sub(rb"\\x([0-9a-fA-F]{2})", lambda m: bytes([int(m[1], 16)]), token[6:].encode())
        return data.decode(errors="replace"), data, None
    return token, None, None


def _n_echoed(logprobs: JsonView, response: JsonView, request: JsonView) -> int:
    """How many of the tokens are the prompt's: with `echo` the first of them has nothing that predicts it."""
    values = logprobs["token_logprobs"]
    if not values or (values[0] is not None and not request.get("echo")):
        return 0
    offsets, prompt = logprobs.get("text_offset"), request.get("prompt")
    if isinstance(offsets, list) and isinstance(prompt, str):
        return sum(isinstance(offset, int) and offset < len(prompt) for offset in offsets)
    usage = response.get("usage") or {}
    if isinstance(usage, dict) and isinstance(usage.get("prompt_tokens"), int):
        return min(usage["prompt_tokens"], len(values))
    raise Unfit(
        "the prompt is echoed, but neither the request nor usage.prompt_tokens says where it ends; give --requests"
    )


def _finish(choice: Mapping[str, object], request: Mapping[str, object]) -> tuple[str | None, str | None]:
    """Our finish reason, or why it is not known. `stop` means an end token as well as a stop text."""
    reason = choice.get("finish_reason")
    if reason == "length":
        return "length", None
    if reason in ("stop", "eos", "eos_token") and "stop_reason" in choice:  # vLLM tells them apart
        return ("stop_string" if isinstance(choice["stop_reason"], str) else "eos"), None
    if reason == "stop" and request and not request.get("stop"):
        return "eos", None
    return None, f"the interface says {str(reason)[:40]!r}, which does not tell an end token from a stop text"


def _llama_cpp(one: Entry, response: JsonView, request: JsonView, processed: bool) -> Completion:
    """A response of llama.cpp's own /completion."""
    entries = response.get("completion_probabilities")
    tokens = None
    if entries is not None:
        entries = _of(entries, list, "completion_probabilities")
        if any(isinstance(e, dict) and "probs" in e for e in entries):
            raise Unfit("its probabilities are in the layout of old servers (`probs`); ask a newer server again")
        if any(isinstance(e, dict) and "prob" in e and "logprob" not in e for e in entries):
            raise Unfit("its probabilities are those after sampling (post_sampling_probs); ask without that option")
        tokens = tuple(map(scored, entries))
    settings = response.get("generation_settings") or {}
    settings = {**(settings if isinstance(settings, dict) else {}), **request}
    given = request.get("prompt", response.get("prompt"))
    stop = _LLAMA_STOPS.get(str(response.get("stop_type")))
    counted = {name: response.get(name) for name in ("tokens_evaluated", "tokens_predicted")}
    n_prompt, n_generated = (value if isinstance(value, int) else None for value in counted.values())
    return Completion(
        model=str(response.get("model") or request.get("model") or "unknown"),
        item_id=one.custom_id or str(response.get("id") or one.where.rpartition(", ")[2]),
        sample=int(response.get("index") or 0),
        prompt=prompt_text(given) if isinstance(given, str | list) else None,
        text=_of(response["content"], str, "content"),
        tokens=tokens,
        n_prompt=n_prompt,
        n_generated=n_generated,
        columns={"finish_reason": stop, **settings_columns(settings)},
        processed=processed,
        metadata={
            "format": "logprobs",
            "response": {k: response[k] for k in ("timings", "stop_type") if k in response},
        },
        missing={} if stop else {"sequences.finish_reason": "the server does not say why generation ended"},
    )


def _of(value: object, kind: type[Kind], name: str) -> Kind:
    if not isinstance(value, kind):
        wanted = {"dict": "an object", "list": "a list", "str": "a text"}[kind.__name__]
        raise Unfit(f"{name} must be {wanted}, not {json.dumps(value, default=str)[:40]}")
    return value


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unfit(f"a log-probability must be a number, not {value!r}")
    if value > 1e-3:
        raise Unfit(f"a log-probability must not be above 0, as {value!r} is")
    return min(0.0, float(value))
